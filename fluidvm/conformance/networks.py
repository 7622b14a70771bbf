"""Tests of networks, and of attaching interfaces to domains."""

from __future__ import annotations

import secrets
from dataclasses import replace

from fluidvm.conformance.case import RUNNING, ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import AlreadyThere, DomainInterface, DomainSpec, NoSuchThing, Unreachable

NO_NETWORK = "contract-no-such-network"


class NetworksContract(ContractCase):
    """Tests of L{INetworks}."""

    def interface(self) -> DomainInterface:
        """An interface in the factory's network, with an unused address."""
        octets = secrets.token_bytes(3)
        return DomainInterface("52:54:00:" + octets.hex(":"), self.factory.network)

    async def interfaces(self, spec: DomainSpec, promise: str) -> list[tuple[str, str]]:
        """A domain's interfaces: addresses and networks. (If no model was requested, the driver chooses one.)"""
        told = (await self.told(spec.uuid, promise)).interfaces
        return sorted((interface.mac, interface.network) for interface in told)

    async def has(self, spec: DomainSpec, there: list[DomainInterface], promise: str) -> None:
        """Check a domain's interfaces."""
        wanted = sorted((interface.mac, interface.network) for interface in there)
        self.assertEqual(await self.interfaces(spec, promise), wanted, promise)

    async def test_networks(self) -> None:
        networks = await self.ask("list_networks", promise="list_networks: the networks are listed")
        names = [network.name for network in networks]
        self.assertEqual(len(names), len(set(names)), "list_networks: each network is listed once")
        active = {network.name for network in networks if network.active}
        self.assertIn(self.factory.network, active, "list_networks: the networks are listed, and which are active")

    async def test_a_domain_is_defined_with_interfaces(self) -> None:
        one, two = self.interface(), replace(self.interface(), model=self.factory.model)
        spec = await self.defined(interfaces=(one, two))
        promise = "define_domain: get_domain reports the interfaces"
        await self.has(spec, [one, two], promise)
        models = {told.mac: told.model for told in (await self.told(spec.uuid, promise)).interfaces}
        self.assertEqual(models[two.mac], self.factory.model, promise)
        await self.again("define_domain", spec)
        await self.ask("start", spec.uuid, promise="start: a domain with interfaces is booted")
        await self.has(spec, [one, two], "start: the interfaces are there")
        await self.ask("stop", spec.uuid)
        await self.ask("define_domain", replace(spec, interfaces=(two,)))
        await self.has(spec, [two], "define_domain: interfaces that aren't in the new definition are removed")

    async def test_a_stopped_domain_is_given_interfaces(self) -> None:
        spec, other = await self.defined(), await self.defined()
        one, two = self.interface(), self.interface()
        for interface, there in ((one, [one]), (two, [one, two])):
            promise = "attach_interface: get_domain reports it"
            await self.ask("attach_interface", spec.uuid, interface, promise=promise)
            await self.has(spec, there, promise)
            await self.again("attach_interface", spec.uuid, interface)
        await self.ask("start", spec.uuid, promise="start: a domain with interfaces is booted")
        await self.has(spec, [one, two], "attach_interface: the interface is there after a start")
        await self.ask("stop", spec.uuid)
        promise = "detach_interface: get_domain doesn't report it"
        await self.ask("detach_interface", spec.uuid, one.mac, promise=promise)
        await self.has(spec, [two], promise)
        await self.again("detach_interface", spec.uuid, one.mac)
        await self.has(other, [], "attach_interface, detach_interface: another domain isn't affected")

    async def test_a_running_domain_is_given_interfaces(self) -> None:
        spec = await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        one, two = self.interface(), self.interface()
        promise = "attach_interface: a running domain gets the interface at once"
        await self.ask("attach_interface", spec.uuid, one, promise=promise)
        await self.has(spec, [one], promise)
        await self.again("attach_interface", spec.uuid, one)
        await self.ask("attach_interface", spec.uuid, two, promise=promise)
        promise = "detach_interface: a running domain's guest releases the interface"
        await self.ask("detach_interface", spec.uuid, one.mac, promise=promise)
        await self.has(spec, [two], promise)
        await self.again("detach_interface", spec.uuid, one.mac)
        await self.is_in(RUNNING, spec.uuid, "attach_interface, detach_interface: the domain keeps running")
        await self.ask("stop", spec.uuid)
        promise = "attach_interface, detach_interface: the definition is changed, too"
        await self.has(spec, [two], promise)

    async def test_what_interfaces_need(self) -> None:
        spec, interface = await self.defined(), self.interface()
        elsewhere = replace(interface, network=NO_NETWORK)
        when = "a network that doesn't exist"
        await self.refuses(NoSuchThing, when, "attach_interface", spec.uuid, elsewhere)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "attach_interface", NOBODY, interface)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "detach_interface", NOBODY, interface.mac)
        others = [network.name for network in await self.ask("list_networks") if network.name != self.factory.network]
        await self.ask("attach_interface", spec.uuid, interface)
        for network in others[:1]:
            await self.refuses(
                AlreadyThere,
                "an address that the domain already has in another network",
                "attach_interface",
                spec.uuid,
                replace(interface, network=network),
            )

    async def test_a_closed_connection(self) -> None:
        spec, interface = await self.defined(), self.interface()
        await self.ask("close")
        when = "a closed connection"
        await self.raises(Unreachable, when, "list_networks")
        await self.raises(Unreachable, when, "attach_interface", spec.uuid, interface)
        await self.raises(Unreachable, when, "detach_interface", spec.uuid, interface.mac)
