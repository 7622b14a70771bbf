"""The contract of networks finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DomainInfo, DomainInterface, DomainSpec, DomainState, NoSuchThing
from fluidvm.drivers.simulator.driver import SimulatedConnection
from tests.unit.conformance.test_conformance import broken_promises


class ForgetsInterfaces(SimulatedConnection):
    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        return super().define_domain(replace(spec, interfaces=()))


class KeepsOldInterfaces(SimulatedConnection):
    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        there = [domain for domain in self.simulated.domains() if domain.uuid == spec.uuid]
        return super().define_domain(replace(spec, interfaces=there[0].interfaces if there else spec.interfaces))


class ForgetsTheModel(SimulatedConnection):
    def get_domain(self, uuid: str) -> Deferred[DomainInfo]:
        def without(info: DomainInfo) -> DomainInfo:
            return replace(info, interfaces=tuple(replace(one, model="") for one in info.interfaces))

        return super().get_domain(uuid).addCallback(without)


class AttachesTwice(SimulatedConnection):
    def attach_interface(self, uuid: str, interface: DomainInterface) -> Deferred[None]:
        def attach() -> None:
            domain = self.simulated.domain(uuid)
            self.simulated.check_network(interface.network)
            self.simulated.put_interfaces(domain.uuid, (*domain.interfaces, interface))

        return self._do("attach_interface", attach)


class DetachesNothing(SimulatedConnection):
    def detach_interface(self, uuid: str, mac: str) -> Deferred[None]:
        return self.get_domain(uuid).addCallback(lambda info: None)


class DetachesAll(SimulatedConnection):
    def detach_interface(self, uuid: str, mac: str) -> Deferred[None]:
        return self._do("detach_interface", lambda: self.simulated.put_interfaces(uuid, ()))


class DetachesOnce(SimulatedConnection):
    def detach_interface(self, uuid: str, mac: str) -> Deferred[None]:
        def look(info: DomainInfo) -> Deferred[None]:
            if all(one.mac != mac for one in info.interfaces):
                raise NoSuchThing(f"There is no interface {mac}.")
            return SimulatedConnection.detach_interface(self, uuid, mac)

        return self.get_domain(uuid).addCallback(look)


class AttachesForNow(SimulatedConnection):
    """What was attached to a running domain is lost when it is stopped."""

    def stop(self, uuid: str) -> Deferred[None]:
        def forget(_: Any) -> None:
            self.simulated.put_interfaces(uuid, ())

        return super().stop(uuid).addCallback(forget)


class AttachesAtTheNextStart(SimulatedConnection):
    def attach_interface(self, uuid: str, interface: DomainInterface) -> Deferred[None]:
        running = [domain for domain in self.simulated.domains() if domain.uuid == uuid]
        if running and running[0].state is DomainState.RUNNING:
            return succeed(None)
        return super().attach_interface(uuid, interface)


class TakesAnyNetwork(SimulatedConnection):
    def attach_interface(self, uuid: str, interface: DomainInterface) -> Deferred[None]:
        return super().attach_interface(uuid, replace(interface, network="default"))


class MovesTheInterface(SimulatedConnection):
    """From one network to the other."""

    def attach_interface(self, uuid: str, interface: DomainInterface) -> Deferred[None]:
        there = [domain for domain in self.simulated.domains() if domain.uuid == uuid]
        if there and any(one.mac == interface.mac and one != interface for one in there[0].interfaces):
            return self.detach_interface(uuid, interface.mac).addCallback(
                lambda _: SimulatedConnection.attach_interface(self, uuid, interface)
            )
        return super().attach_interface(uuid, interface)


class GivesAll(SimulatedConnection):
    """What is attached to one domain is attached to all."""

    def attach_interface(self, uuid: str, interface: DomainInterface) -> Deferred[None]:
        def rest(_: None) -> None:
            for domain in self.simulated.domains():
                if interface not in domain.interfaces:
                    self.simulated.put_interfaces(domain.uuid, (*domain.interfaces, interface))

        return super().attach_interface(uuid, interface).addCallback(rest)


class TellsTwice(SimulatedConnection):
    def list_networks(self) -> Deferred[Any]:
        return super().list_networks().addCallback(lambda networks: [*networks, *networks])


class TellsNone(SimulatedConnection):
    def list_networks(self) -> Deferred[Any]:
        return super().list_networks().addCallback(lambda networks: [replace(one, active=False) for one in networks])


class AnswersAfterClose(SimulatedConnection):
    def list_networks(self) -> Deferred[Any]:
        return succeed(())


FAULTY: tuple[tuple[type[SimulatedConnection], str], ...] = (
    (ForgetsInterfaces, "define_domain: get_domain reports the interfaces"),
    (ForgetsTheModel, "define_domain: get_domain reports the interfaces"),
    (KeepsOldInterfaces, "define_domain: interfaces that aren't in the new definition are removed"),
    (AttachesTwice, "attach_interface: a repetition changes nothing"),
    (DetachesNothing, "detach_interface: get_domain doesn't report it"),
    (DetachesAll, "detach_interface: get_domain doesn't report it"),
    (DetachesOnce, "detach_interface: a repetition succeeds"),
    (AttachesForNow, "attach_interface, detach_interface: the definition is changed, too"),
    (AttachesAtTheNextStart, "attach_interface: a running domain gets the interface at once"),
    (TakesAnyNetwork, "attach_interface: NoSuchThing is raised for a network that doesn't exist"),
    (
        MovesTheInterface,
        "attach_interface: AlreadyThere is raised for an address that the domain already has in another network",
    ),
    (GivesAll, "attach_interface, detach_interface: another domain isn't affected"),
    (TellsTwice, "list_networks: each network is listed once"),
    (TellsNone, "list_networks: the networks are listed, and which are active"),
    (AnswersAfterClose, "list_networks: Unreachable is raised for a closed connection"),
)


class NetworkConformanceTests(SynchronousTestCase):
    def test_each_breach_is_named(self) -> None:
        for connection, promise in FAULTY:
            _, broken = broken_promises(connection, promise)
            found = any(promise in text for text in broken)
            self.assertTrue(found, f"{connection.__name__}: not found: {promise}: {broken}")
