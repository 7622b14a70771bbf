"""Tests of resizing and copying volumes, and of pools."""

from __future__ import annotations

from dataclasses import replace

from fluidvm.conformance.connection import NOBODY
from fluidvm.conformance.disks import NO_POOL, SIZE, VolumeCase
from fluidvm.conformance.heads import HEADS
from fluidvm.driver import (
    DomainDisk,
    IAdoption,
    IImages,
    IVolumeSnapshots,
    NoSuchThing,
    Unreachable,
    Unsupported,
    Volume,
    WrongState,
)

LARGER = 2 * SIZE


class VolumesContract(VolumeCase):
    """Tests of L{IVolumes}."""

    async def copied(self, volume: Volume, promise: str) -> Volume:
        """Copy a volume; the copy is removed after the test."""
        name = self.name()
        self.volumes.append(name)
        self.formats[name] = volume.format
        told: list[int] = []
        arguments = volume.pool, volume.name, volume.format, name, told.append
        copy: Volume = await self.ask("clone_volume", *arguments, promise=promise)
        self.assertEqual(told, sorted(told), "clone_volume: progress never decreases")
        return copy

    async def test_pools(self) -> None:
        pools = {pool.name: pool for pool in await self.ask("list_pools", promise="list_pools: the pools are listed")}
        self.assertIn(self.factory.pool, pools, "list_pools: the pools are listed")
        for pool in pools.values():
            self.assertTrue(0 <= pool.free <= pool.capacity, "list_pools: the free space isn't more than the capacity")

    async def test_a_volume_is_made_larger(self) -> None:
        for format in self.connection.formats:
            volume, other = await self.volume(format), await self.volume(format)
            promise = f"resize_volume: list_volumes reports the size ({format})"
            at = volume.pool, volume.name, format
            grown = await self.ask("resize_volume", *at, LARGER, promise=promise)
            listed = await self.listed(promise)
            self.assertEqual((grown.size, listed[volume.name]), (LARGER, grown), promise)
            self.assertEqual(listed[other.name], other, "resize_volume: another volume isn't affected")
            await self.again("resize_volume", *at, LARGER)
            await self.refuses(WrongState, "less than it has", "resize_volume", *at, SIZE)
        nobody = self.factory.pool, self.name(), "raw"
        await self.refuses(NoSuchThing, "a volume that doesn't exist", "resize_volume", *nobody, SIZE)
        await self.refuses(NoSuchThing, "a pool that doesn't exist", "resize_volume", NO_POOL, "x", "raw", SIZE)

    async def test_a_volume_in_use(self) -> None:
        spec, volume = await self.defined(), await self.volume()
        await self.ask("attach_disk", spec.uuid, DomainDisk(volume.path, volume.format, "vdz"))
        await self.ask("start", spec.uuid)
        at = volume.pool, volume.name, volume.format
        await self.refuses(WrongState, "a volume that a running domain has", "resize_volume", *at, LARGER)

    async def test_a_volume_is_copied(self) -> None:
        for format in self.connection.formats:
            volume = await self.volume(format)
            promise = f"clone_volume: list_volumes lists the copy ({format})"
            copy = await self.copied(volume, promise)
            self.assertEqual((copy.size, copy.format, copy.pool), (volume.size, volume.format, volume.pool), promise)
            self.assertNotEqual(copy.path, volume.path, "clone_volume: the copy is another volume")
            listed = await self.listed(promise)
            self.assertEqual((listed.get(copy.name), listed.get(volume.name)), (copy, volume), promise)
            again = await self.again("clone_volume", volume.pool, volume.name, format, copy.name, lambda part: None)
            self.assertEqual(again, copy, "clone_volume: a repetition returns the copy")
            await self.ask("delete_volume", volume.pool, volume.name)
            promise = "clone_volume: the copy stays when its original is removed"
            self.assertEqual((await self.listed(promise)).get(copy.name), copy, promise)
        name = self.name()
        self.volumes.append(name)
        for pool, source, when in (
            (self.factory.pool, self.name(), "a volume that doesn't exist"),
            (NO_POOL, "x", "a pool that doesn't exist"),
        ):
            await self.refuses(NoSuchThing, when, "clone_volume", pool, source, "raw", name, lambda part: None)

    async def test_another_format_than_it_was_made_with(self) -> None:
        """A volume that isn't a qcow2 volume is never treated as one."""
        if not {"qcow2", "raw"} <= set(self.connection.formats):
            return
        volume, name = await self.volume("raw"), self.name()
        at, when = (volume.pool, volume.name, "qcow2"), "a raw volume that is given as qcow2"
        await self.refuses(WrongState, when, "resize_volume", *at, LARGER)
        self.volumes.append(name)
        await self.refuses(WrongState, when, "clone_volume", *at, name, lambda part: None)
        if IVolumeSnapshots.providedBy(self.connection):  # type: ignore[attr-defined]
            await self.refuses(WrongState, when, "create_volume_snapshot", *at, "first")
        if IAdoption.providedBy(self.connection):  # type: ignore[attr-defined]
            await self.refuses(Unsupported, when, "volume_of", volume.path, "qcow2")

    async def test_a_cancelled_copy(self) -> None:
        for format in self.connection.formats:
            volume, name = await self.volume(format), self.name()
            self.volumes.append(name)
            copying = self.connection.clone_volume(volume.pool, volume.name, format, name, lambda part: None)
            await self.cancelled("clone_volume", copying, name)

    async def test_a_raw_volume_is_so_many_bytes(self) -> None:
        """A raw volume stays raw, whatever a guest has written to it."""
        if "raw" not in self.connection.formats or not IImages.providedBy(self.connection):  # type: ignore[attr-defined]
            return
        for what, head in HEADS.items():
            volume = await self.volume("raw")
            at = volume.pool, volume.name, "raw"
            await self.ask("write_volume", *at, 0, head)
            promise = f"list_volumes: a raw volume that looks like {what} is raw, and as large as it was"
            self.assertEqual((await self.listed(promise))[volume.name], volume, promise)
            promise = f"create_volume: a repetition returns a raw volume that looks like {what}"
            self.assertEqual(await self.again(*self.create(volume)), volume, promise)
            promise = f"resize_volume: a raw volume that looks like {what} is raw, and has the size"
            grown = await self.ask("resize_volume", *at, LARGER, promise=promise)
            self.assertEqual(
                (grown, (await self.listed(promise))[volume.name]), (replace(volume, size=LARGER),) * 2, promise
            )
            copy = await self.copied(grown, f"clone_volume: a raw volume that looks like {what} is copied")
            promise = f"clone_volume: the copy of a raw volume that looks like {what} has its bytes"
            for one in (grown, copy):
                self.assertEqual((one.format, one.size), ("raw", LARGER), promise)
                length = await self.ask("measure_volume", one.pool, one.name, "raw", promise=promise)
                self.assertEqual(length, LARGER * 2**20, promise)
                found = await self.ask("read_volume", one.pool, one.name, "raw", 0, 65536, promise=promise)
                self.assertTrue(found == head.ljust(65536, b"\0"), promise)
            if IVolumeSnapshots.providedBy(self.connection):  # type: ignore[attr-defined]
                when = f"a raw volume that looks like {what}"
                await self.refuses(Unsupported, when, "create_volume_snapshot", *at, "first")
            if IAdoption.providedBy(self.connection):  # type: ignore[attr-defined]
                promise = f"volume_of: a raw volume that looks like {what} is raw"
                self.assertEqual(await self.ask("volume_of", grown.path, "raw", promise=promise), grown, promise)

    async def test_a_closed_connection(self) -> None:
        volume = await self.volume()
        await self.ask("close")
        when = "a closed connection"
        await self.raises(Unreachable, when, "list_pools")
        await self.raises(Unreachable, when, "resize_volume", volume.pool, volume.name, volume.format, LARGER)
        await self.raises(Unreachable, when, "clone_volume", volume.pool, volume.name, volume.format, "x", lambda part: None)


class DiskResizeContract(VolumeCase):
    """Tests of L{IDiskResize}."""

    async def test_a_running_domain_s_disk_is_made_larger(self) -> None:
        spec, volume = await self.defined(), await self.volume()
        disk = DomainDisk(volume.path, volume.format, "vdz")
        await self.ask("attach_disk", spec.uuid, disk)
        await self.refuses(WrongState, "a domain that isn't running", "resize_disk", spec.uuid, disk, LARGER)
        await self.ask("start", spec.uuid)
        promise = "resize_disk: the volume has the size"
        await self.ask("resize_disk", spec.uuid, disk, LARGER, promise=promise)
        self.assertEqual((await self.listed(promise))[volume.name].size, LARGER, promise)
        await self.again("resize_disk", spec.uuid, disk, LARGER)
        await self.refuses(WrongState, "less than it has", "resize_disk", spec.uuid, disk, SIZE)
        missing = DomainDisk(volume.path, volume.format, "vdy")
        await self.refuses(NoSuchThing, "a disk that the domain doesn't have", "resize_disk", spec.uuid, missing, LARGER)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "resize_disk", NOBODY, disk, LARGER)

    async def test_a_closed_connection(self) -> None:
        spec, volume = await self.defined(), await self.volume()
        disk = DomainDisk(volume.path, volume.format, "vdz")
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "resize_disk", spec.uuid, disk, LARGER)
