"""Statistics, on a real Xen: that what a guest does is what is told."""

from __future__ import annotations

from xml.etree import ElementTree

from twisted.internet import reactor
from twisted.internet.task import deferLater

from fluidvm.drivers.xen.domain_xml import PYGRUB, xen_domain_xml

from .real_xen import XenCase, bootable

MIB = 2**20


class StatsTests(XenCase):
    async def test_a_busy_guest(self) -> None:
        disk = await self.volume("data", 16)
        spec = bootable("web1", disks=(disk,))
        # Interfaces of anyone's domain are told; one that isn't the driver's own has them.
        tree = ElementTree.fromstring(xen_domain_xml(spec, "pv", PYGRUB))
        interface = ElementTree.SubElement(tree.find("devices") or tree, "interface", type="bridge")
        ElementTree.SubElement(interface, "source", bridge="xenbr0")
        self.outside.defineXML(ElementTree.tostring(tree, encoding="unicode"))
        await self.connection.start(spec.uuid)
        console = await self.up(spec)
        before = await self.connection.domain_stats(spec.uuid)
        await self.connection.host_stats()
        self.assertEqual(before.memory, 128)
        await console.tell(
            "mknod /dev/x b $(tr : ' ' </sys/block/xvda/dev); dd if=/dev/x of=/dev/null bs=1M count=8; "
            "dd if=/dev/zero of=/dev/x bs=1M count=4 conv=fsync"
        )
        await console.tell("ip link set eth0 up; ip addr add 192.168.77.2/24 dev eth0; ping -c 3 192.168.77.1")
        await console.tell("timeout 3 sh -c 'while :; do :; done'")
        after = await self.connection.domain_stats(spec.uuid)
        for name, least in (
            ("cpu_time", 1.0),
            ("disk_read", 8 * MIB),
            ("disk_written", 4 * MIB),
            ("network_received", 3 * 98),
            ("network_sent", 3 * 98),
        ):
            self.assertGreaterEqual(getattr(after, name) - getattr(before, name), least, name)
        self.assertGreater((await self.connection.host_stats()).cpu, 10.0)

    async def test_disks_that_qemu_serves_arent_told(self) -> None:
        disk = await self.volume("data", format="qcow2")
        spec = await self.started(disks=(disk,))
        told = await self.connection.domain_stats(spec.uuid)
        self.assertEqual((told.disk_read, told.disk_written, told.network_sent), (None, None, 0))

    async def test_what_the_host_has_left(self) -> None:
        before = await self.connection.host_stats()
        self.assertGreater(before.memory_used, 768)
        await self.started()
        await deferLater(reactor, 0.5, lambda: None)
        after = await self.connection.host_stats()
        self.assertGreaterEqual(after.memory_used, before.memory_used + 128)
