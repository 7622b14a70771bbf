"""Disks that running guests are given, on a real Xen: on files and block devices, and those that need a device model."""

from __future__ import annotations

from dataclasses import replace

from fluidvm.driver import DomainDisk, DomainState, NoSuchThing, WrongState
from tests.real.real_host import until

from .real_xen import POOL, UP, XenCase

STOPPED = DomainState.STOPPED


class PlugTests(XenCase):
    async def gone(self, uuid: str) -> None:
        """A domain can be stopped: libxl can't do it any more after a plugging that failed half-way."""
        await self.connection.stop(uuid)
        self.assertEqual((await self.connection.get_domain(uuid)).state, STOPPED)

    async def test_the_guest_has_it(self) -> None:
        disk = await self.volume("data", 8)
        spec = await self.started()
        console = await self.up(spec)
        await self.connection.attach_disk(spec.uuid, disk)
        self.assertIn("size=16384", await console.tell("echo size=$(cat /sys/block/xvda/size)"))
        await console.tell("mknod /dev/x b $(tr : ' ' </sys/block/xvda/dev); echo written by the guest >/dev/x; sync")
        await self.connection.detach_disk(spec.uuid, "vda")
        self.assertNotIn("size=16384", await console.tell("echo size=$(cat /sys/block/xvda/size)"))
        self.assertIn("written by the guest", await self.in_dom0("head", "-c", "20", disk.path))
        await self.gone(spec.uuid)

    async def test_block_devices(self) -> None:
        """A block device that a storage pool has is plugged as files are."""
        await self.in_dom0("truncate", "-s", "8M", "/var/tmp/device")
        loop = (await self.in_dom0("losetup", "--find", "--show", "/var/tmp/device")).strip()
        path = f"{POOL}/device"
        await self.in_dom0("cp", "-a", loop, path)
        try:
            spec = await self.started()
            console = await self.up(spec)
            disk = DomainDisk(path, "raw", "vdb")
            await self.connection.attach_disk(spec.uuid, disk)
            self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, (disk,))
            self.assertIn("size=16384", await console.tell("echo size=$(cat /sys/block/xvdb/size)"))
            await self.connection.detach_disk(spec.uuid, "vdb")
            # At boot, any will do; here under its own name.
            await self.gone(spec.uuid)
            await self.connection.attach_disk(spec.uuid, replace(disk, path=loop))
            await self.connection.start(spec.uuid)
            self.assertIn("disks=1", (await self.up(spec)).text)
            await self.gone(spec.uuid)
        finally:
            await self.in_dom0("rm", "-f", path)
            await self.in_dom0("losetup", "--detach", loop)

    async def test_qcow2(self) -> None:
        one, two = await self.volume("one", format="qcow2"), await self.volume("two", format="qcow2")
        two = replace(two, target="vdb")
        spec = await self.started()
        await self.up(spec)
        with self.assertRaises(WrongState) as caught:
            await self.connection.attach_disk(spec.uuid, one)
        self.assertIn("stop it", str(caught.exception))
        self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, ())
        await self.gone(spec.uuid)
        await self.connection.attach_disk(spec.uuid, one)
        await self.connection.start(spec.uuid)
        console = await self.up(spec)
        self.assertIn("disks=1", console.text)
        await self.connection.attach_disk(spec.uuid, two)

        async def has() -> bool:
            return "size=32768" in await console.tell("echo size=$(cat /sys/block/xvdb/size)")

        # QEMU connects by and by.
        await until("the disk in the guest", has, UP)
        await self.connection.detach_disk(spec.uuid, "vdb")
        self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, (one,))
        await self.gone(spec.uuid)

    async def test_what_cant_be_looked_for_isnt_plugged(self) -> None:
        spec = await self.started()
        with self.assertRaises(WrongState):
            await self.connection.attach_disk(spec.uuid, DomainDisk("/nowhere/disk.raw", "raw", "vda"))
        with self.assertRaises(NoSuchThing):
            await self.connection.attach_disk(spec.uuid, DomainDisk(f"{POOL}/none.raw", "raw", "vda"))
        await self.gone(spec.uuid)
