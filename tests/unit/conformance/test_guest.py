"""The contracts of guests and containers find drivers that break them, and say which promise they break."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DomainSpec, DriverError, GuestOutput, Limits
from fluidvm.drivers.simulator.driver import SimulatedConnection
from tests.unit.conformance.test_conformance import broken_promises


class AsksAShell(SimulatedConnection):
    def run_in_guest(self, uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> Deferred[GuestOutput]:
        try:
            words = shlex.split(" ".join(argv))
        except ValueError:
            words = [argv[0]]
        return super().run_in_guest(uuid, words, stdin, timeout)


class ForgetsTheInput(SimulatedConnection):
    def run_in_guest(self, uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> Deferred[GuestOutput]:
        return super().run_in_guest(uuid, argv, b"", timeout)


class AlwaysZero(SimulatedConnection):
    def run_in_guest(self, uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> Deferred[GuestOutput]:
        done = super().run_in_guest(uuid, argv, stdin, timeout)
        return done.addCallback(lambda told: GuestOutput(0, told.stdout, told.stderr))


class TellsThePassword(SimulatedConnection):
    def set_password(self, uuid: str, user: str, password: str) -> Deferred[None]:
        if not password.isprintable():
            return fail(DriverError(f"{password!r} is no password."))
        return super().set_password(uuid, user, password)


class TakesAnyTemplate(SimulatedConnection):
    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        return super().define_domain(replace(spec, template=""))


class HasNoTemplates(SimulatedConnection):
    def list_templates(self) -> Deferred[Sequence[str]]:
        return succeed(())


class AddsTwice(SimulatedConnection):
    def add_address(self, uuid: str, address: str) -> Deferred[None]:
        def add() -> None:
            told = self.simulated.notes(uuid).get("network", {})
            self.simulated.note(uuid, network={**told, "addresses": [*told.get("addresses", ()), address]})

        return self._do("add_address", add)


class RemovesNothing(SimulatedConnection):
    def remove_address(self, uuid: str, address: str) -> Deferred[None]:
        return self.get_domain(uuid).addCallback(lambda _: None)


class AddsNameServers(SimulatedConnection):
    def set_nameservers(self, uuid: str, servers: Sequence[str], domains: Sequence[str]) -> Deferred[None]:
        def put(told: Any) -> Deferred[None]:
            return SimulatedConnection.set_nameservers(self, uuid, [*told.nameservers, *servers], domains)

        return self.guest_network(uuid).addCallback(put)


class ResetsTheOthers(SimulatedConnection):
    def set_limits(self, uuid: str, values: Limits) -> Deferred[None]:
        def reset(_: Any) -> Deferred[None]:
            self.simulated.note(uuid, limits={})
            return SimulatedConnection.set_limits(self, uuid, values)

        return self.get_domain(uuid).addCallback(reset)


class BoundsAll(SimulatedConnection):
    def set_limits(self, uuid: str, values: Limits) -> Deferred[None]:
        def bound(_: Any) -> None:
            for domain in self.simulated.domains():
                SimulatedConnection.set_limits(self, domain.uuid, values)

        return self.get_domain(uuid).addCallback(bound)


class ShowsNoPicture(SimulatedConnection):
    def screenshot(self, uuid: str) -> Deferred[bytes]:
        return super().screenshot(uuid).addCallback(lambda picture: picture[:-1])


class ShowsTheStopped(SimulatedConnection):
    def screenshot(self, uuid: str) -> Deferred[bytes]:
        return self.get_domain(uuid).addCallback(lambda _: b"\x89PNG\r\n\x1a\n")


FAULTS: dict[type[SimulatedConnection], str] = {
    AsksAShell: "run_in_guest: the arguments reach the command unchanged",
    ForgetsTheInput: "run_in_guest: the command gets its standard input",
    AlwaysZero: "run_in_guest: its exit code is returned",
    TellsThePassword: "set_password: an error doesn't reveal the password",
    TakesAnyTemplate: "define_domain: NoSuchThing is raised for a template that doesn't exist",
    HasNoTemplates: "list_templates: there is at least one",
    AddsTwice: "add_address: guest_network reports it",
    RemovesNothing: "remove_address: guest_network doesn't report it",
    AddsNameServers: "set_nameservers: the previous ones are replaced",
    ResetsTheOthers: "set_limits: other limits stay the same",
    BoundsAll: "set_limits: another domain isn't affected",
    ShowsNoPicture: "screenshot: it is a PNG file of a running domain's screen",
    ShowsTheStopped: "screenshot: WrongState is raised for a stopped domain",
}


class FaultyDriverTests(SynchronousTestCase):
    """Each breaks one promise; the contract names it."""

    def test_found(self) -> None:
        for connection, promise in FAULTS.items():
            _, broken = broken_promises(connection, promise)
            self.assertTrue(any(promise in words for words in broken), f"{connection.__name__}: {promise!r} in {broken}")
