"""Resizing and copying volumes, and the free space of libvirt's storage pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import libvirt
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from fluidvm.driver import (
    AlreadyThere,
    DomainDisk,
    DriverError,
    IDiskResize,
    IVolumes,
    NoSuchThing,
    Pool,
    Progress,
    Volume,
    WrongState,
)
from fluidvm.drivers.libvirt.bytes import Copying, allocated, copy, file_size, grow
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.disks import MIB, LibvirtDisks, checked, describe
from fluidvm.drivers.libvirt.domain_xml import parse_domain, volume_xml

LOOK = 0.5
"""Polling interval in seconds for the progress of a copy."""


@implementer(IVolumes)
class LibvirtVolumes(LibvirtDisks):
    """A host whose volumes can be resized and copied."""

    @verb
    async def list_pools(self) -> Sequence[Pool]:
        def ask() -> Sequence[Pool]:
            found = []
            for pool in self._connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
                _, capacity, _, free = pool.info()
                found.append(Pool(pool.name(), capacity // MIB, free // MIB))
            return sorted(found, key=lambda pool: pool.name)

        return await self._call("the host's storage pools", ask)

    def _do_existing(self, pool: str, name: str) -> Any:
        volume = self._do_volume(self._do_pool(pool), name)
        if volume is None:
            raise NoSuchThing(f"Storage pool {pool} has no volume {name}.")
        return volume

    def _do_check_unused(self, volume: Any) -> None:
        path = volume.path()
        for domain in self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            if any(disk.path == path for disk in parse_domain(domain.XMLDesc(0)).disks):
                raise WrongState(f"Volume {volume.name()} is in use by domain {domain.name()}, which is running.")

    @verb
    async def resize_volume(self, pool: str, name: str, format: str, size: int) -> Volume:
        def act() -> Volume:
            volume = self._do_existing(pool, name)
            there = checked(self._connection, pool, volume, format)
            if there.size > size:
                raise WrongState(f"Volume {name} has {there.size} MiB already: it can't be made smaller.")
            if there.size < size:
                self._do_check_unused(volume)
                if format == "raw":
                    grow(self._connection, volume, size * MIB)
                else:
                    volume.resize(size * MIB)
            return describe(self._connection, pool, volume, format)

        return await self._call(f"volume {name} in storage pool {pool}", act)

    @verb
    async def clone_volume(self, pool: str, name: str, format: str, new: str, progress: Progress) -> Volume:
        subject = f"copy {new} of volume {name} in storage pool {pool}"
        source, there = await self._call(subject, self._do_look_before, pool, name, format, new)
        if there is not None:
            return there
        copying = Copying()
        clone = self._do_copy_bytes if format == "raw" else self._do_clone
        working = self._host.run_long(self._guarded, subject, clone, pool, source, new, copying)
        ended: list[Any] = []
        working.addBoth(ended.append)
        cancelled, told = False, 0
        while not ended:
            try:
                await self._wait(LOOK)
                if format != "raw":
                    progress(await self._call(subject, self._do_measure, pool, source.name, new))
                elif copying.done > told:
                    told = copying.done  # a copy that makes no progress reports none, so that the server notices
                    progress(copying.percentage)
            except CancelledError:
                # libvirt can't abort a copy: the copy is removed after it is complete.
                cancelled = True
                copying.stop.set()
            except DriverError:
                continue
        if cancelled:
            await Deferred.fromCoroutine(self._call(subject, self._do_delete, pool, new))
            raise CancelledError
        if isinstance(ended[0], Failure):
            await self._call(subject, self._do_delete, pool, new)
            ended[0].raiseException()
        progress(100)
        made: Volume = ended[0]
        return made

    def _do_look_before(self, pool: str, name: str, format: str, new: str) -> tuple[Volume, Volume | None]:
        volume = self._do_existing(pool, name)
        source = checked(self._connection, pool, volume, format)
        other = self._do_volume(self._do_pool(pool), new)
        if other is not None:
            there = describe(self._connection, pool, other, format)
            if (there.size, there.format) != (source.size, source.format):
                raise AlreadyThere(f"Storage pool {pool} already has another volume {new}.")
            return source, there
        self._do_check_unused(volume)
        return source, None

    def _do_clone(self, pool_name: str, source: Volume, new: str, _copying: Copying) -> Volume:
        """Copy with C{qemu-img}, which trusts the volume's header: never use it if a guest could have written that."""
        pool = self._connection.storagePoolLookupByName(pool_name)
        text = volume_xml(new, source.size, source.format)
        made = pool.createXMLFrom(text, pool.storageVolLookupByName(source.name))
        return describe(self._connection, pool_name, made, source.format)

    def _do_copy_bytes(self, pool_name: str, source: Volume, new: str, copying: Copying) -> Volume:
        pool = self._connection.storagePoolLookupByName(pool_name)
        volume = pool.storageVolLookupByName(source.name)
        copying.total = allocated(volume)
        made = pool.createXML(volume_xml(new, file_size(self._connection, volume), "raw", "bytes"))
        copy(self._connection.newStream(), volume, self._connection.newStream(), made, copying)
        return describe(self._connection, pool_name, made, "raw")

    def _do_measure(self, pool_name: str, name: str, new: str) -> int:
        """The percentage of a volume's bytes that have been copied."""
        pool = self._connection.storagePoolLookupByName(pool_name)
        _, _, whole = pool.storageVolLookupByName(name).info()
        _, _, part = pool.storageVolLookupByName(new).info()
        return min(99, 100 * part // whole) if whole else 0


@implementer(IDiskResize)
class LibvirtDiskResize(LibvirtVolumes):
    """A host on which disks of running domains can also be made larger."""

    @verb
    async def resize_disk(self, uuid: str, disk: DomainDisk, size: int) -> None:
        def act() -> None:
            domain = self._do_find(uuid)
            if not domain.isActive():
                raise WrongState(f"Domain {domain.name()} isn't running: resize the volume instead.")
            if disk not in parse_domain(domain.XMLDesc(0)).disks:
                raise NoSuchThing(f"Domain {domain.name()} has no disk {disk.path} as {disk.target}.")
            capacity, _, _ = domain.blockInfo(disk.target)
            if capacity > size * MIB:
                raise WrongState(f"Disk {disk.target} has {capacity // MIB} MiB already: it can't be made smaller.")
            if capacity < size * MIB:
                domain.blockResize(disk.target, size * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

        await self._call(f"disk {disk.target} of domain {uuid}", act)
