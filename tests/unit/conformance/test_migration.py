"""The contract of migration finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DomainSpec, DomainState, DriverError
from fluidvm.drivers.simulator.driver import SimulatedConnection
from tests.unit.conformance.test_conformance import broken_promises


class Migrates(SimulatedConnection):
    """Makes an additional change after it has moved a domain."""

    def migrate(self, spec: DomainSpec, to: Any, live: bool, copy_storage: bool, progress: Any) -> Deferred[None]:
        self.there = getattr(to, "simulated", None)
        moved = super().migrate(self.asked(spec), to, live, copy_storage, progress)
        return moved.addCallbacks(lambda _: self.moved(spec), lambda failure: self.failed(spec) or failure)

    def asked(self, spec: DomainSpec) -> DomainSpec:
        return spec

    def moved(self, spec: DomainSpec) -> None:
        pass

    def failed(self, spec: DomainSpec) -> None:
        pass


class KeepsIt(Migrates):
    def moved(self, spec: DomainSpec) -> None:
        self.simulated.define(replace(spec, disks=()))


class StopsIt(Migrates):
    def moved(self, spec: DomainSpec) -> None:
        self.there.put_state(spec.uuid, DomainState.STOPPED)  # type: ignore[union-attr]


class StartsIt(Migrates):
    def moved(self, spec: DomainSpec) -> None:
        self.there.put_state(spec.uuid, DomainState.RUNNING)  # type: ignore[union-attr]


class ForgetsAutostart(Migrates):
    def asked(self, spec: DomainSpec) -> DomainSpec:
        return replace(spec, autostart=False)


class LeavesItsDisks(Migrates):
    def moved(self, spec: DomainSpec) -> None:
        self.there.detach(spec.uuid, "vda")  # type: ignore[union-attr]


class DeletesItsVolume(Migrates):
    def moved(self, spec: DomainSpec) -> None:
        used = {disk.path for host in (self.simulated, self.there) for one in host.domains() for disk in one.disks}  # type: ignore[union-attr]
        for volume in self.simulated.all_volumes():
            if volume.path not in used:
                self.simulated.delete_volume(volume.pool, volume.name)


class LeavesItThere(Migrates):
    def failed(self, spec: DomainSpec) -> None:
        if self.there is not None and all(one.name != spec.name for one in self.there.domains()):
            self.there.define(replace(spec, disks=()))


class LosesIt(Migrates):
    def failed(self, spec: DomainSpec) -> None:
        self.simulated.remove(spec.uuid)


class MovesItOnce(SimulatedConnection):
    def migrate(self, spec: DomainSpec, to: Any, live: bool, copy_storage: bool, progress: Any) -> Deferred[None]:
        def check() -> Deferred[None]:
            if to._open and any(one.uuid == spec.uuid for one in to.simulated.domains()):
                raise DriverError("It is there already.")
            return SimulatedConnection.migrate(self, spec, to, live, copy_storage, progress)

        return maybeDeferred(check)


class MovesNothing(SimulatedConnection):
    def migrate(self, spec: DomainSpec, to: Any, live: bool, copy_storage: bool, progress: Any) -> Deferred[None]:
        return succeed(None)


class SaysItMovesNoneThatRun(SimulatedConnection):
    migrates_live = False


FAULTY: tuple[tuple[type[SimulatedConnection], str], ...] = (
    (KeepsIt, "isn't on the first host anymore"),
    (StopsIt, "a running domain is on the other host, in the state in which it was"),
    (StartsIt, "a stopped domain is on the other host, in the state in which it was"),
    (ForgetsAutostart, "migrate: the domain is the same on the other host"),
    (LeavesItsDisks, "migrate: its disks have the other host's paths"),
    (DeletesItsVolume, "migrate: its old volume stays"),
    (LeavesItThere, "the other host doesn't know it"),
    (LosesIt, "migrate: after failure"),
    (MovesItOnce, "migrate: a repetition succeeds"),
    (MovesNothing, "migrate: a stopped domain is on the other host"),
    (SaysItMovesNoneThatRun, "migrate: WrongState is raised for a running domain"),
)


class MigrationConformanceTests(SynchronousTestCase):
    def test_each_breach_is_named(self) -> None:
        for connection, promise in FAULTY:
            _, broken = broken_promises(connection, promise)
            found = any(promise in text for text in broken)
            self.assertTrue(found, f"{connection.__name__}: not found: {promise}: {broken}")
