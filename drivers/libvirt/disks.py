"""Volumes in libvirt's storage pools, and attaching them to domains as disks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import libvirt
from twisted.internet.defer import CancelledError
from zope.interface import implementer

from fluidvm.driver import (
    AlreadyThere,
    DomainDisk,
    DomainState,
    DriverError,
    IDisks,
    NoSuchThing,
    Progress,
    Unsupported,
    Volume,
    WrongState,
)
from fluidvm.drivers.libvirt.bytes import file_size, mistaken
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domain_xml import (
    disk_xml,
    has_backing,
    parse_domain,
    parse_pool_path,
    parse_volume,
    pool_xml,
    volume_xml,
)
from fluidvm.drivers.libvirt.domains import LibvirtDomains
from fluidvm.drivers.libvirt.errors import code_of

MIB = 2**20
LET_GO = 15.0
"""Seconds in which a guest must release a disk."""

_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE


@implementer(IDisks)
class LibvirtDisks(LibvirtDomains):
    """A host with storage pools."""

    formats: tuple[str, ...] = ("qcow2", "raw")

    def _disk_xml(self, disk: DomainDisk) -> str:
        """A disk's definition for this hypervisor."""
        return disk_xml(disk)

    async def ensure_pool(self, name: str, path: str) -> None:
        """
        Create a storage pool for a directory, unless it exists, and start it.

        @param path: absolute path on the host.
        @raise DriverError: a pool of that name has another directory.
        """
        await self._call(f"storage pool {name}", self._do_ensure_pool, name, path)

    def _do_ensure_pool(self, name: str, path: str) -> None:
        try:
            pool = self._connection.storagePoolLookupByName(name)
        except libvirt.libvirtError as error:
            if code_of(error) != libvirt.VIR_ERR_NO_STORAGE_POOL:
                raise
            pool = self._connection.storagePoolDefineXML(pool_xml(name, path))
            pool.build()
            pool.setAutostart(1)
        there = parse_pool_path(pool.XMLDesc())
        if PurePosixPath(there) != PurePosixPath(path):
            raise DriverError(f"Storage pool {name} is at {there}, not at {path}.")
        if not pool.isActive():
            pool.create()

    def _do_pool(self, name: str) -> Any:
        try:
            pool = self._connection.storagePoolLookupByName(name)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_NO_STORAGE_POOL:
                raise NoSuchThing(f"The host has no storage pool {name}.") from error
            raise
        if not pool.isActive():
            pool.create()
        # libvirt lists what it found last, but others write to pools as well.
        try:
            pool.refresh()
        except libvirt.libvirtError as error:
            # While a volume is being copied libvirt doesn't refresh the pool, and has no specific error code for that.
            if code_of(error) != libvirt.VIR_ERR_INTERNAL_ERROR or not pool.isActive():
                raise
        return pool

    def _do_volume(self, pool: Any, name: str) -> Any:
        """A volume, or C{None}."""
        try:
            return pool.storageVolLookupByName(name)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_NO_STORAGE_VOL:
                return None
            raise

    @verb
    async def list_volumes(self, pool: str, formats: Mapping[str, str] = {}) -> Sequence[Volume]:
        def act() -> Sequence[Volume]:
            found = []
            for volume in self._do_pool(pool).listAllVolumes():
                try:
                    format = formats.get(volume.name(), "raw")
                    found.append(describe(self._connection, pool, volume, format))
                except libvirt.libvirtError as error:
                    if code_of(error) != libvirt.VIR_ERR_NO_STORAGE_VOL:
                        raise
            return found

        return await self._call(f"volumes of storage pool {pool}", act)

    @verb
    async def create_volume(self, pool: str, name: str, size: int, format: str, progress: Progress) -> Volume:
        if format not in self.formats:
            raise Unsupported(f"Volume {name}: the format must be one of {', '.join(self.formats)}, not {format}.")
        subject = f"volume {name} in storage pool {pool}"
        there = await self._call(subject, self._do_has, pool, name)
        try:
            made = await self._call(subject, self._do_create, pool, name, size, format)
        except CancelledError:
            # The host's thread still creates it; this runs afterwards, in the same thread.
            if not there:
                await self._call(subject, self._do_delete, pool, name)
            raise
        progress(100)
        return made

    def _do_create(self, pool_name: str, name: str, size: int, format: str) -> Volume:
        pool = self._do_pool(pool_name)
        volume = self._do_volume(pool, name)
        if volume is None:
            volume = pool.createXML(volume_xml(name, size, format))
        made = describe(self._connection, pool_name, volume, format)
        if (made.size, made.format) != (size, format):
            raise AlreadyThere(
                f"Storage pool {pool_name} already has a volume {name}, of {made.size} MiB in format {made.format}."
            )
        return made

    @verb
    async def delete_volume(self, pool: str, name: str) -> None:
        await self._call(f"volume {name} in storage pool {pool}", self._do_delete, pool, name)

    def _do_has(self, pool: str, name: str) -> bool:
        return self._do_volume(self._do_pool(pool), name) is not None

    def _do_delete(self, pool: str, name: str) -> None:
        volume = self._do_volume(self._do_pool(pool), name)
        if volume is None:
            return
        try:
            volume.delete()
        except libvirt.libvirtError:
            if not mistaken(volume):
                raise
            self._do_unlink(volume)

    def _do_unlink(self, volume: Any) -> None:
        """Remove the file of a volume that libvirt mistakes for a directory."""
        raise DriverError(
            f"Volume {volume.name()} begins like a Virtuozzo image, and libvirt treats it as one: remove {volume.path()} "
            "on the host by hand."
        )

    def _do_exists(self, path: str) -> bool | None:
        known = super()._do_exists(path)
        if known is not None:
            return known
        for pool in self._connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
            if PurePosixPath(parse_pool_path(pool.XMLDesc())) == PurePosixPath(path).parent:
                pool.refresh()
                return self._do_volume(pool, PurePosixPath(path).name) is not None
        return None

    @verb
    async def attach_disk(self, uuid: str, disk: DomainDisk) -> None:
        await self._call(f"disk {disk.target} of domain {uuid}", self._do_attach, uuid, disk)

    def _do_attach(self, uuid: str, disk: DomainDisk) -> None:
        domain = self._do_changeable(uuid)
        flags = 0
        for flag, look in places(domain):
            described = parse_domain(domain.XMLDesc(look))
            there = next((other for other in described.disks if other.target == disk.target), None)
            if there is None:
                flags |= flag
            elif there != disk:
                raise AlreadyThere(f"Domain {described.name} already has {there.path} as its disk {disk.target}.")
        if not flags:
            return
        if self._do_exists(disk.path) is False:
            raise NoSuchThing(f"{disk.path} doesn't exist on the host.")
        domain.attachDeviceFlags(self._disk_xml(disk), flags)

    def _do_changeable(self, uuid: str) -> Any:
        domain = self._do_find(uuid)
        state = self._do_state(domain)
        if state not in (DomainState.STOPPED, DomainState.RUNNING, DomainState.PAUSED) and domain.isActive():
            raise WrongState(
                f"Domain {domain.name()} is {state}; its disks can be changed only while it is running or stopped."
            )
        if state is DomainState.SAVED:
            raise WrongState(
                f"Domain {domain.name()} is saved; its disks can be changed only while it is running or stopped."
            )
        return domain

    @verb
    async def detach_disk(self, uuid: str, target: str) -> None:
        subject = f"disk {target} of domain {uuid}"
        if await self._call(subject, self._do_begin_detach, uuid, target):
            deadline = self._seconds() + LET_GO
            while await self._call(subject, self._do_attached, uuid, target):
                if self._seconds() >= deadline:
                    raise WrongState(
                        f"The guest of domain {uuid} didn't release disk {target} within {LET_GO:g} s; stop it first."
                    )
                await self._wait()
        await self._call(subject, self._do_end_detach, uuid, target)

    def _do_attached(self, uuid: str, target: str) -> bool:
        return _find_disk(self._do_find(uuid).XMLDesc(0), target) is not None

    def _do_begin_detach(self, uuid: str, target: str) -> bool:
        """Ask the guest to release the disk. Returns whether there is something to wait for."""
        domain = self._do_changeable(uuid)
        disk = _find_disk(domain.XMLDesc(0), target)
        if not domain.isActive() or disk is None:
            return False
        if self._do_state(domain) is not DomainState.RUNNING:
            raise WrongState(f"Domain {domain.name()} is paused; its guest can release a disk only while it runs.")
        try:
            domain.detachDeviceFlags(self._disk_xml(disk), _LIVE)
        except libvirt.libvirtError as error:
            # An earlier request is still in progress: wait for it.
            if not self._alive() or not domain.isActive() or code_of(error) == libvirt.VIR_ERR_OPERATION_INVALID:
                raise
            self._log.info("Domain {uuid}, disk {target}: {error}", uuid=uuid, target=target, error=error)
        return True

    def _do_end_detach(self, uuid: str, target: str) -> None:
        domain = self._do_find(uuid)
        if not domain.isPersistent():
            return
        disk = _find_disk(domain.XMLDesc(_INACTIVE), target)
        if disk is None:
            return
        try:
            domain.detachDeviceFlags(self._disk_xml(disk), _CONFIG)
        except libvirt.libvirtError:
            if domain.isActive() and self._alive():
                domain.attachDeviceFlags(self._disk_xml(disk), _LIVE)
            raise


def places(domain: Any) -> list[tuple[int, int]]:
    """The definitions of a domain that contain its devices: the flag to change each one, and the flag to read it."""
    places = []
    if domain.isActive():
        places.append((_LIVE, 0))
    if domain.isPersistent():
        places.append((_CONFIG, _INACTIVE))
    return places


def _find_disk(definition: str, target: str) -> DomainDisk | None:
    return next((disk for disk in parse_domain(definition).disks if disk.target == target), None)


def describe(connection: Any, pool: str, volume: Any, format: str) -> Volume:
    """
    Describe a volume by the format with which it was created; blocks.

    libvirt's view of its contents is used only if the format isn't raw, as guests can't write the header then. A volume in
    which libvirt finds another format is reported as raw.
    """
    if format != "raw":
        try:
            name, path, there, size = parse_volume(volume.XMLDesc())
        except libvirt.libvirtError:
            there = ""
        if there == format:
            return Volume(pool, name, path, format, size)
    return Volume(pool, volume.name(), volume.path(), "raw", -(-file_size(connection, volume) // MIB))


def checked(connection: Any, pool: str, volume: Any, format: str) -> Volume:
    """
    Like L{describe}, for a volume that tools will process by its format; blocks.

    @raise WrongState: it doesn't have this format.
    @raise Unsupported: it refers to another file.
    """
    told = describe(connection, pool, volume, format)
    if told.format != format:
        raise WrongState(f"Volume {told.name} was created with format {format}, and no longer has it.")
    if format != "raw" and has_backing(volume.XMLDesc()):
        raise Unsupported(f"Volume {told.name} refers to another file (a backing file), which isn't allowed.")
    return told
