"""
Snapshots of volumes, through libvirt.

libvirt has snapshots of domains, but not of the volumes in its storage pools. So each volume with snapshots has its own
domain, its keeper, which is never started and never listed. With it libvirt records the snapshots, and runs C{qemu-img} on
the file. In the file their names begin with L{MARK}. The snapshots of domains that have the volume as a disk are in the
same file, but their names can't begin with it.
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
"""The names of domains' snapshots contain no colon (L{fluidvm.driver.NAME_PATTERN})."""
WORDS = "FluidVM keeps snapshots of the volume {name} of storage pool {pool} by this domain. Don't start it."


def keeper_xml(pool: str, name: str, uuid: str, kind: str, disk: DomainDisk) -> str:
    """Write a keeper's definition."""
    domain = Element("domain", type=kind)
    SubElement(domain, "name").text = f"{KEEPER_PREFIX}{uuid}"
    SubElement(domain, "uuid").text = uuid
    SubElement(domain, "description").text = WORDS.format(name=name, pool=pool)
    SubElement(domain, "memory", unit="MiB").text = "32"
    SubElement(domain, "vcpu").text = "1"
    boot = SubElement(domain, "os")
    SubElement(boot, "type").text = "hvm"
    # If somebody starts it nevertheless, it doesn't boot from the disk.
    SubElement(boot, "boot", dev="network")
    devices = SubElement(domain, "devices")
    devices.append(ElementTree.fromstring(disk_xml(disk)))  # noqa: S314 - made here
    return ElementTree.tostring(domain, encoding="unicode")


@implementer(IVolumeSnapshots)
class LibvirtVolumeSnapshots(LibvirtSnapshots, LibvirtDisks):
    """A host whose volumes can have snapshots."""

    patience = LibvirtSnapshots.patience | dict.fromkeys(
        ("create_volume_snapshot", "revert_volume", "delete_volume_snapshot"), max(LibvirtSnapshots.patience.values())
    )

    async def _volume_verb(self, what: str, pool: str, name: str, function: Callable[..., None], *args: Any) -> None:
        await self._call_in(self._host.run_long, f"{what} of volume {name}", function, pool, name, *args)

    def _do_kept_volume(self, pool: str, name: str, format: str) -> Volume:
        """@raise WrongState: a volume doesn't have this format, which C{qemu-img} would detect by itself."""
        volume = self._do_volume(self._do_pool(pool), name)
        if volume is None:
            raise NoSuchThing(f"Storage pool {pool} has no volume {name}.")
        return checked(self._connection, pool, volume, format)

    def _do_knows(self, pool: str, name: str) -> bool:
        """Whether the host's last listing contains a volume."""
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
            # Refreshing a pool reads all of its volumes: with thousands of them, this must not be done for each one.
            self._do_kept_volume(pool, name, "raw")
        if keeper is None:
            return []
        told = self._do_list_snapshots(keeper.UUIDString())
        return [replace(one, name=one.name.removeprefix(MARK)) for one in told]

    @verb
    async def create_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> None:
        # The keeper's platform, though it never runs: it must be requested in the reactor's thread.
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
    """Remove a keeper without snapshots."""
    if not keeper.snapshotNum(0):
        keeper.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)


def _keeper_uuid(pool: str, name: str) -> str:
    """The keeper's UUID, derived from pool and volume, so that it is found again."""
    return str(uuids.uuid5(uuids.NAMESPACE_URL, f"fluidvm:{pool}/{name}"))
