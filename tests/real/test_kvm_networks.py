"""Interfaces on a real libvirtd: guests see them."""

from __future__ import annotations

from dataclasses import replace

from fluidvm.driver import DomainInterface, NoSuchThing, WrongState
from tests.real.real_host import HostCase, until

ONE = DomainInterface("52:54:00:00:00:01", "lab")
TWO = DomainInterface("52:54:00:00:00:02", "lab")


class NetworkTests(HostCase):
    async def test_networks(self) -> None:
        told = {network.name: network for network in await self.connection.list_networks()}
        self.assertEqual(set(told), {"lab", "spare"})
        self.assertTrue(told["lab"].active)
        self.assertTrue(told["lab"].bridge)
        self.outside.networkLookupByName("spare").destroy()
        try:
            told = {network.name: network for network in await self.connection.list_networks()}
            self.assertFalse(told["spare"].active)
            spec = self.spec(interfaces=(replace(ONE, network="spare"),))
            await self.connection.define_domain(spec)
            with self.assertRaises(WrongState):
                await self.connection.start(spec.uuid)
        finally:
            self.outside.networkLookupByName("spare").create()

    async def addresses(self, uuid: str) -> str:
        """What the guest says of its interfaces."""
        return await self.tell(uuid, "cat /sys/class/net/*/address")

    async def test_guests_see_them_come_and_go(self) -> None:
        spec = await self.booted(interfaces=(ONE,))
        self.assertIn(ONE.mac, await self.addresses(spec.uuid))
        await self.connection.attach_interface(spec.uuid, TWO)

        async def seen() -> bool:
            return TWO.mac in await self.addresses(spec.uuid)

        await until("second interface in the guest", seen)
        await self.connection.detach_interface(spec.uuid, ONE.mac)
        said = await self.addresses(spec.uuid)
        self.assertNotIn(ONE.mac, said)
        self.assertIn(TWO.mac, said)
        await self.connection.pause(spec.uuid)
        with self.assertRaises(WrongState):
            await self.connection.detach_interface(spec.uuid, TWO.mac)
        await self.connection.attach_interface(spec.uuid, ONE)
        await self.connection.resume(spec.uuid)
        await self.connection.stop(spec.uuid)
        macs = {interface.mac for interface in (await self.connection.get_domain(spec.uuid)).interfaces}
        self.assertEqual(macs, {ONE.mac, TWO.mac})

    async def test_a_network_that_is_not_there(self) -> None:
        spec = self.spec(interfaces=(replace(ONE, network="nowhere"),))
        with self.assertRaisesRegex(NoSuchThing, "nowhere"):
            await self.connection.define_domain(spec)
        self.assertEqual(list(await self.connection.list_domains()), [])

    async def test_q35_has_room_for_more(self) -> None:
        connection = await self.connect(machine="q35")
        spec = self.spec(interfaces=(ONE,))
        await connection.define_domain(spec)
        await connection.start(spec.uuid)
        await connection.attach_interface(spec.uuid, TWO)
        told = (await connection.get_domain(spec.uuid)).interfaces
        self.assertEqual({interface.mac for interface in told}, {ONE.mac, TWO.mac})
