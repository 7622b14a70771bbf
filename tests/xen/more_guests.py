"""The kinds of guest, on a real Xen: each as the driver defines it, booted as far as emulation allows."""

from __future__ import annotations

import libvirt

from fluidvm.driver import Boot, DomainDisk, Unsupported
from tests.real.real_host import until
from tests.unit.drivers.xen.test_xml import GOLDEN

from .real_xen import GUEST, PVGRUB, UP, XenCase, bootable

DISK = DomainDisk(f"{GUEST}/disk.img", "raw", "vda")
VALIDATE = libvirt.VIR_DOMAIN_DEFINE_VALIDATE
HVM_UP = 600.0
"""Seconds for a guest whose every exit is emulated twice."""


class KindTests(XenCase):
    def test_every_golden_definition_is_valid_there(self) -> None:
        """By libvirt's schema, and by its Xen driver, which is also asked for xl's own form."""
        files = sorted(GOLDEN.glob("xen-*.xml"))
        self.assertEqual(len(files), 8)
        for file in files:
            text = file.read_text()
            self.outside.defineXMLFlags(text, VALIDATE).undefine()
            native = self.outside.domainXMLToNative("xen-xl", text, 0)
            self.assertIn("format=raw,vdev=xvdb,access=rw,target=/dev/vg/b", native)

    async def boots(self, guest: str, **options: str) -> None:
        """Boot from the disk, and shut down."""
        connection = await self.connect(guests=guest, **options)
        spec = await self.started(connection=connection, disks=(DISK,), boot=Boot())
        console = await self.up(spec)
        self.assertIn("disks=1", console.text)
        self.assertIn("from=disk", console.text)
        await connection.shutdown(spec.uuid)
        domain = self.outside.lookupByUUIDString(spec.uuid)
        await until("the guest's end", lambda: not domain.isActive(), UP)

    async def test_pv_from_its_disk_by_pygrub(self) -> None:
        await self.boots("pv")

    async def test_pv_from_its_disk_by_pvgrub(self) -> None:
        await self.boots("pv", boot_loader=PVGRUB["pv"])

    async def test_pvh_from_its_disk_by_pygrub(self) -> None:
        await self.boots("pvh")

    async def test_pvh_by_its_kernel(self) -> None:
        connection = await self.connect(guests="pvh")
        spec = await self.started(connection=connection)
        await self.up(spec)
        self.assertEqual((await self.in_dom0("xenstore-ls", "/libxl")).count('type = "pvh"'), 1)
        await connection.resize_memory(spec.uuid, 192)
        await connection.pause(spec.uuid)
        await connection.resume(spec.uuid)
        await connection.stop(spec.uuid)

    async def test_hvm_by_its_kernel(self) -> None:
        """What its emulated PC says is on the serial port; Linux is told to talk to Xen's console, which dom0 logs."""
        connection = await self.connect(guests="hvm")
        spec = await self.started(
            "hvm1", connection=connection, boot=Boot(f"{GUEST}/vmlinuz", f"{GUEST}/initrd.gz", "console=hvc0 quiet")
        )

        async def up() -> bool:
            return "GUEST-UP" in await self.in_dom0("cat", "/var/log/xen/guest-hvm1.log")

        await until("GUEST-UP", up, HVM_UP)
        self.assertEqual((await self.in_dom0("xenstore-ls", "/libxl")).count('type = "hvm"'), 1)
        await connection.stop(spec.uuid)

    async def test_what_they_cant_boot_from(self) -> None:
        with self.assertRaises(Unsupported):
            await self.connection.define_domain(bootable("web1", boot=Boot(order=("network",))))
        self.assertEqual(await self.connection.list_domains(), [])
