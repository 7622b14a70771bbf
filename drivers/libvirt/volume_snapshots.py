"""
Volumes kept under a name and gone back to, by libvirt.

Its storage pools have no call for it: what lies in a disk's file is kept for a domain that has the disk. So each volume with
snapshots has a domain of its own, its keeper, which is never started, and is told to nobody. libvirt remembers with it which
snapshots there are, and has C{qemu-img} work on the file. In the file their names begin with L{MARK}: those of the domains
that have the volume as a disk, in the same file, can't.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import libvirt
from zope.interface import implementer

from fluidvm.driver import DomainDisk, IVolumeSnapshots, NoSuchThing, Snapshot, Unsupported, Volume, WrongState
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.disks import LibvirtDisks, checked
from fluidvm.drivers.libvirt.domain_xml import KEEPER_PREFIX, disk_xml, parse_domain
from fluidvm.drivers.libvirt.errors import code_of
from fluidvm.drivers.libvirt.snapshots import LibvirtSnapshots

MARK = "disk:"
"""No name of a domain's snapshot has a colon (L{fluidvm.driver.NAME_PATTERN})."""
WORDS = "FluidVM keeps snapshots of the volume {name} of storage pool {pool} by this domain. Don't start it."


def keeper_xml(pool: str, name: str, uuid: str, kind: str, disk: DomainDisk) -> str:
    """Write a keeper."""
    domain = Element("domain", type=kind)
    SubElement(domain, "name").text = f"{KEEPER_PREFIX}{uuid}"
    SubElement(domain, "uuid").text = uuid
    SubElement(domain, "description").text = WORDS.format(name=name, pool=pool)
    SubElement(domain, "memory", unit="MiB").text = "32"
    SubElement(domain, "vcpu").text = "1"
    boot = SubElement(domain, "os")
    SubElement(boot, "type").text = "hvm"
    # Whoever starts it all the same boots nothing from the disk.
    SubElement(boot, "boot", dev="network")
    devices = SubElement(domain, "devices")
    devices.append(ElementTree.fromstring(disk_xml(disk)))  # noqa: S314 - made here
    return ElementTree.tostring(domain, encoding="unicode")


@implementer(IVolumeSnapshots)
class LibvirtVolumeSnapshots(LibvirtSnapshots, LibvirtDisks):
    """A host whose volumes can be kept."""

    patience = LibvirtSnapshots.patience | dict.fromkeys(
        ("create_volume_snapshot", "revert_volume", "delete_volume_snapshot"), max(LibvirtSnapshots.patience.values())
    )

    async def _volume_verb(self, what: str, pool: str, name: str, function: Callable[..., None], *args: Any) -> None:
        await self._call_in(self._host.run_long, f"{what} of volume {name}", function, pool, name, *args)

    def _do_kept_volume(self, pool: str, name: str, format: str) -> Volume:
        """@raise WrongState: a volume hasn't the format: C{qemu-img}, which works on it, finds out for itself what it is."""
        volume = self._do_volume(self._do_pool(pool), name)
        if volume is None:
            raise NoSuchThing(f"Storage pool {pool} has no volume {name}.")
        return checked(self._connection, pool, volume, format)

    def _do_knows(self, pool: str, name: str) -> bool:
        """Whether the host saw a volume when it looked last."""
        try:
            return self._do_volume(self._connection.storagePoolLookupByName(pool), name) is not None
        except libvirt.libvirtError as error:
            if code_of(error) in (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_OPERATION_INVALID):
                return False
            raise

    def _do_keeper(self, pool: str, name: str) -> Any:
        """A volume's keeper, or C{None}."""
        try:
            return self._connection.lookupByUUIDString(_keeper_uuid(pool, name))
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _do_check_idle(self, volume: Volume) -> None:
        """@raise WrongState: a domain that has a volume as a disk isn't stopped."""
        for domain in self._connection.listAllDomains(0):
            if not domain.isActive() and not domain.hasManagedSaveImage(0):
                continue
            if any(disk.path == volume.path for disk in parse_domain(domain.XMLDesc(0)).disks):
                state = self._do_state(domain)
                raise WrongState(
                    f"Volume {volume.name} is a disk of domain {domain.name()}, which is {state}: stop it first."
                )

    @verb
    async def list_volume_snapshots(self, pool: str, name: str) -> Sequence[Snapshot]:
        return await self._call(f"snapshots of volume {name}", self._do_list_volume_snapshots, pool, name)

    def _do_list_volume_snapshots(self, pool: str, name: str) -> Sequence[Snapshot]:
        keeper = self._do_keeper(pool, name)
        if keeper is None and not self._do_knows(pool, name):
            # Looking at a pool anew looks at all of its volumes: not for each of them, when there are thousands.
            self._do_kept_volume(pool, name, "raw")
        if keeper is None:
            return []
        told = self._do_list_snapshots(keeper.UUIDString())
        return [replace(one, name=one.name.removeprefix(MARK)) for one in told]

    @verb
    async def create_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> None:
        # What it is to run on, though it never does: asked in the reactor.
        kind = (await self.platform("")).kind
        await self._volume_verb(f"snapshot {snapshot}", pool, name, self._do_keep_volume, format, snapshot, kind)

    def _do_keep_volume(self, pool: str, name: str, format: str, snapshot: str, kind: str) -> None:
        volume = self._do_kept_volume(pool, name, format)
        keeper = self._do_keeper(pool, name)
        if keeper is not None and self._do_snapshot(keeper, MARK + snapshot) is not None:
            return
        if volume.format != "qcow2":
            raise Unsupported(f"Volume {name} has format {volume.format}; only qcow2 supports snapshots.")
        self._do_check_idle(volume)
        if keeper is None:
            disk = DomainDisk(volume.path, volume.format, "vda")
            keeper = self._connection.defineXML(keeper_xml(pool, name, _keeper_uuid(pool, name), kind, disk))
        try:
            wanted = Element("domainsnapshot")
            SubElement(wanted, "name").text = MARK + snapshot
            keeper.snapshotCreateXML(ElementTree.tostring(wanted, encoding="unicode"), 0)
        finally:
            _do_let_go(keeper)

    @verb
    async def revert_volume(self, pool: str, name: str, format: str, snapshot: str) -> None:
        await self._volume_verb(f"revert to snapshot {snapshot}", pool, name, self._do_revert_volume, format, snapshot)

    def _do_revert_volume(self, pool: str, name: str, format: str, snapshot: str) -> None:
        volume = self._do_kept_volume(pool, name, format)
        keeper = self._do_keeper(pool, name) if volume.format == "qcow2" else None
        kept = None if keeper is None else self._do_snapshot(keeper, MARK + snapshot)
        if keeper is None or kept is None:
            raise NoSuchThing(f"Volume {name} has no snapshot {snapshot}.")
        self._do_check_idle(volume)
        keeper.revertToSnapshot(kept, 0)

    @verb
    async def delete_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> None:
        await self._volume_verb(
            f"removal of snapshot {snapshot}", pool, name, self._do_delete_volume_snapshot, format, snapshot
        )

    def _do_delete_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> None:
        volume = self._do_kept_volume(pool, name, format)
        keeper = self._do_keeper(pool, name) if volume.format == "qcow2" else None
        if keeper is None:
            return
        kept = self._do_snapshot(keeper, MARK + snapshot)
        if kept is not None:
            self._do_check_idle(volume)
            kept.delete(0)
        _do_let_go(keeper)

    def _do_delete(self, pool: str, name: str) -> None:
        super()._do_delete(pool, name)
        keeper = self._do_keeper(pool, name)
        if keeper is not None:
            keeper.undefineFlags(self.undefine_flags)


def _do_let_go(keeper: Any) -> None:
    """A keeper that keeps nothing isn't needed."""
    if not keeper.snapshotNum(0):
        keeper.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)


def _keeper_uuid(pool: str, name: str) -> str:
    """Of the volume's place, so that it is found again."""
    return str(uuids.uuid5(uuids.NAMESPACE_URL, f"fluidvm:{pool}/{name}"))
