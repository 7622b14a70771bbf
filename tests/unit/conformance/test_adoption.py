"""The contract of adoption finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import Boot, DomainSpec, DomainState, Volume, WrongState
from fluidvm.drivers.simulator.driver import SimulatedConnection
from tests.unit.conformance.test_conformance import broken_promises


class Changes(SimulatedConnection):
    """Reports some fields incorrectly."""

    fields: dict[str, Any] = {}

    def get_spec(self, uuid: str) -> Deferred[DomainSpec]:
        return super().get_spec(uuid).addCallback(lambda spec: replace(spec, **self.fields))


class ForgetsInterfaces(Changes):
    fields = {"interfaces": ()}


class ForgetsAutostart(Changes):
    fields = {"autostart": False}


class ForgetsDisks(Changes):
    fields = {"disks": ()}


class TellsAnotherBoot(Changes):
    fields = {"boot": Boot(order=("cdrom",))}


class TellsWhatItWas(SimulatedConnection):
    """As it was first defined."""

    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        self.simulated.__dict__.setdefault("first", {}).setdefault(spec.uuid, spec)
        return super().define_domain(spec)

    def get_spec(self, uuid: str) -> Deferred[DomainSpec]:
        first = self.simulated.__dict__.get("first", {})
        return super().get_spec(uuid).addCallback(lambda spec: first.get(uuid, spec))


class WantsItStopped(SimulatedConnection):
    def get_spec(self, uuid: str) -> Deferred[DomainSpec]:
        def look() -> None:
            if self.simulated.domain(uuid).state is not DomainState.STOPPED:
                raise WrongState("Stop it first.")

        return self._do("get_spec", look).addCallback(lambda _: SimulatedConnection.get_spec(self, uuid))


class StopsIt(SimulatedConnection):
    def get_spec(self, uuid: str) -> Deferred[DomainSpec]:
        def stopped(spec: DomainSpec) -> DomainSpec:
            self.simulated.stop(uuid)
            return spec

        return super().get_spec(uuid).addCallback(stopped)


class KnowsEveryVolume(SimulatedConnection):
    def volume_of(self, path: str, format: str) -> Deferred[Volume]:
        return super().volume_of(path, format).addErrback(lambda _: Volume("default", "x", path, "raw", 1))


class MistakesTheVolume(SimulatedConnection):
    def volume_of(self, path: str, format: str) -> Deferred[Volume]:
        return super().volume_of(path, format).addCallback(lambda volume: replace(volume, size=volume.size + 1))


class AnswersAfterClose(SimulatedConnection):
    def volume_of(self, path: str, format: str) -> Deferred[Volume]:
        if not self._open:
            return succeed(Volume("default", "x", path, "raw", 1))
        return super().volume_of(path, format)


FAULTY: tuple[tuple[type[SimulatedConnection], str], ...] = (
    (ForgetsInterfaces, "get_spec: the domain is described as it was defined"),
    (ForgetsAutostart, "get_spec: the domain is described as it was defined"),
    (TellsAnotherBoot, "get_spec: the domain is described as it was defined"),
    (TellsWhatItWas, "get_spec: later changes are reported"),
    (ForgetsDisks, "get_spec: its disks are reported"),
    (WantsItStopped, "get_spec: a running domain is described, too"),
    (StopsIt, "get_spec: it changes nothing"),
    (KnowsEveryVolume, "volume_of: NoSuchThing is raised for a volume that was removed"),
    (MistakesTheVolume, "volume_of: the volume is found"),
    (AnswersAfterClose, "volume_of: Unreachable is raised for a closed connection"),
)


class AdoptionConformanceTests(SynchronousTestCase):
    def test_each_breach_is_named(self) -> None:
        for connection, promise in FAULTY:
            _, broken = broken_promises(connection, promise)
            found = any(promise in text for text in broken)
            self.assertTrue(found, f"{connection.__name__}: not found: {promise}: {broken}")
