"""The host, on a real Xen: the ways to it, who is let in, and dom0, which is nobody's."""

from __future__ import annotations

from pathlib import Path

import libvirt
from twisted.internet import reactor
from twisted.internet.task import deferLater

from fluidvm.driver import AlreadyThere, DomainState, DriverError, NoSuchThing, Unreachable
from fluidvm.drivers.xen.driver import DOM0, XenDriver
from tests.real.real_host import ThreadHost

from .machine import USER
from .real_xen import XenCase, bootable


class WayTests(XenCase):
    async def test_each_transport_reaches_it(self) -> None:
        for address in (self.machine.tcp, self.machine.tls, self.machine.ssh):
            info = await (await self.connect(address)).host_info()
            self.assertEqual(info.vcpus, 2)
            self.assertGreater(info.memory, 2000)
            self.assertIn("Xen 4.", info.hypervisor_version)

    def password(self, text: str, mode: int = 0o600) -> str:
        path = Path(self.mktemp()).absolute()
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    async def test_a_wrong_password_is_refused(self) -> None:
        with self.assertRaises(DriverError) as caught:
            await self.connect(password_file=self.password("hunter2\n"))
        self.assertNotIsInstance(caught.exception, Unreachable)
        self.assertNotIn("hunter2", str(caught.exception))

    async def test_nobody_is_refused(self) -> None:
        with self.assertRaises(DriverError) as caught:
            await self.connect(username=USER + "2")
        self.assertNotIsInstance(caught.exception, Unreachable)

    async def test_a_password_that_others_may_read_isnt_used(self) -> None:
        with self.assertRaises(DriverError) as caught:
            await self.connect(password_file=self.password(self.machine.password_file.read_text(), 0o640))
        self.assertIn("chmod", str(caught.exception))
        with self.assertRaises(DriverError) as caught:
            await self.connect(password_file="/nowhere/password")
        self.assertIn("/nowhere/password", str(caught.exception))

    async def test_a_password_wants_a_name(self) -> None:
        host = ThreadHost(Path(self.mktemp()))
        self.addCleanup(host.stop)
        with self.assertRaises(DriverError) as caught:
            await XenDriver().connect(self.machine.tcp, {"password_file": str(self.machine.password_file)}, host)
        self.assertIn("username", str(caught.exception))


class Dom0Tests(XenCase):
    """libvirt lists dom0, running; nothing may be done to it here."""

    async def test_dom0_isnt_there(self) -> None:
        dom0 = self.outside.lookupByUUIDString(DOM0)
        before = dom0.XMLDesc(0)
        self.assertEqual(await self.connection.list_domains(), [])
        for verb, *rest in (
            ("get_domain",),
            ("start",),
            ("stop",),
            ("shutdown",),
            ("reboot",),
            ("pause",),
            ("resume",),
            ("set_memory", 128),
            ("set_vcpus", 1),
            ("resize_memory", 512),
            ("resize_vcpus", 1),
            ("detach_disk", "vda"),
            ("attach_disk", await self.volume("data")),
        ):
            with self.assertRaises(NoSuchThing, msg=verb):
                await getattr(self.connection, verb)(DOM0, *rest)
        await self.connection.undefine_domain(DOM0)
        for spec in (bootable("web1", uuid=DOM0), bootable("Domain-0")):
            with self.assertRaises(AlreadyThere):
                await self.connection.define_domain(spec)
        self.assertEqual(dom0.XMLDesc(0), before)
        self.assertTrue(dom0.isActive())

    async def test_its_events_arent_told(self) -> None:
        told: list[tuple[str, DomainState | None]] = []
        self.connection.subscribe(lambda uuid, state: told.append((uuid, state)))
        # What libvirt tells of dom0 goes the same way as all it tells.
        self.connection._lifecycle(None, self.outside.lookupByUUIDString(DOM0), libvirt.VIR_DOMAIN_EVENT_RESUMED, 0, None)
        spec = await self.started()
        await deferLater(reactor, 1.0, lambda: None)
        self.assertEqual({uuid for uuid, _ in told}, {spec.uuid})
