"""Snapshots of domains: libvirt's internal snapshots, which are stored in the domains' qcow2 files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import libvirt
from zope.interface import implementer

from fluidvm.driver import (
    DomainState,
    DriverError,
    IPatience,
    ISnapshots,
    NoSuchThing,
    Snapshot,
    Unsupported,
    WrongState,
)
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domain_xml import Description, parse_domain
from fluidvm.drivers.libvirt.domains import LibvirtDomains
from fluidvm.drivers.libvirt.errors import code_of

LONGEST = 1800.0
"""Time-out of a verb in seconds: QEMU reports no progress, and a running guest's whole memory is written or read."""
_INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE
_SECURE = libvirt.VIR_DOMAIN_XML_SECURE
_AMOUNTS = {"vcpus": "CPUs", "max_vcpus": "CPUs at most", "memory": "MiB of memory", "max_memory": "MiB of memory at most"}


@dataclass(frozen=True)
class SnapshotRecord:
    """
    The description of a snapshot by libvirt (U{https://libvirt.org/formatsnapshot.html}).

    @ivar external: a part of it is outside the disks' files.
    @ivar memory: it contains the memory of a running or paused domain.
    @ivar plugged: CPUs had been plugged in while it ran.
    @ivar definition: the definition for the domain's next start at that time.
    """

    snapshot: Snapshot
    external: bool
    plugged: bool
    definition: Description


def parse_snapshot(text: str) -> SnapshotRecord:
    """Read a snapshot's description."""
    told = ElementTree.fromstring(text)  # noqa: S314 - libvirtd is trusted: it is root on that host
    memory, domain, next_start = told.find("memory"), told.find("domain"), told.find("inactiveDomain")
    parts = [*told.iterfind("disks/disk"), *([] if memory is None else [memory])]
    if domain is None:
        raise DriverError(f"Snapshot {told.findtext('name', '')}: the host no longer has the definition of its domain.")
    definition = domain if next_start is None else next_start
    definition.tag = "domain"
    return SnapshotRecord(
        Snapshot(
            told.findtext("name", ""),
            float(told.findtext("creationTime", "0")),
            told.findtext("state") in ("running", "paused", "blocked"),
        ),
        any(part.get("snapshot") == "external" for part in parts) or told.findtext("state") == "disk-snapshot",
        _plugged(domain),
        parse_domain(ElementTree.tostring(definition, encoding="unicode")),
    )


def _plugged(domain: ElementTree.Element) -> bool:
    """Whether CPUs were plugged into a running domain: QEMU can't load memory that was saved in this state."""
    return domain.find("vcpus/vcpu[@enabled='yes'][@hotpluggable='yes']") is not None


@implementer(ISnapshots, IPatience)
class LibvirtSnapshots(LibvirtDomains):
    """A host that stores snapshots of domains in their disks' files."""

    patience = dict.fromkeys(("create_snapshot", "revert_snapshot", "delete_snapshot"), LONGEST)

    async def _snapshot_verb(self, what: str, uuid: str, function: Callable[..., None], *args: Any) -> None:
        """Run a long operation in parallel with other calls. Once begun it runs to its end, even when it is cancelled."""
        await self._call_in(self._host.run_long, f"{what} of domain {uuid}", function, uuid, *args)

    @verb
    async def list_snapshots(self, uuid: str) -> Sequence[Snapshot]:
        return await self._call(f"snapshots of domain {uuid}", self._do_list_snapshots, uuid)

    def _do_list_snapshots(self, uuid: str) -> Sequence[Snapshot]:
        found = []
        # The times are whole seconds; within a second, parents come before children.
        for snapshot in self._do_find(uuid).listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL):
            try:
                found.append(parse_snapshot(snapshot.getXMLDesc(0)).snapshot)
            except libvirt.libvirtError as error:
                if code_of(error) != libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                    raise
        return sorted(found, key=lambda snapshot: snapshot.created)

    def _do_snapshot(self, domain: Any, name: str) -> Any:
        """A domain's snapshot, or C{None}."""
        try:
            return domain.snapshotLookupByName(name)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                return None
            raise

    def _do_steady(self, domain: Any, what: str) -> bool:
        """Whether a domain runs. @raise WrongState: it is neither running nor stopped."""
        state = self._do_state(domain)
        if state is DomainState.RUNNING:
            return True
        if domain.isActive() or state not in (DomainState.STOPPED, DomainState.CRASHED):
            raise WrongState(f"Domain {domain.name()} is {state}; {what} only while it is running or stopped.")
        return False

    @verb
    async def create_snapshot(self, uuid: str, name: str) -> None:
        await self._snapshot_verb(f"snapshot {name}", uuid, self._do_create_snapshot, name)

    def _do_create_snapshot(self, uuid: str, name: str) -> None:
        domain = self._do_find(uuid)
        if self._do_snapshot(domain, name) is not None:
            return
        running = self._do_steady(domain, "a snapshot can be created")
        text = domain.XMLDesc(0)
        disks = parse_domain(text).disks
        for disk in disks:
            if disk.format != "qcow2":
                raise Unsupported(
                    f"Domain {domain.name()}: its disk {disk.target} ({disk.path}) has format {disk.format}; only qcow2 "
                    "supports snapshots."
                )
        if not disks:
            raise Unsupported(f"Domain {domain.name()} has no disk, which a snapshot needs to store its data.")
        if running and _plugged(ElementTree.fromstring(text)):  # noqa: S314 - as above
            raise WrongState(
                f"Domain {domain.name()} got CPUs while it ran, and QEMU couldn't revert to that: stop and start it first."
            )
        wanted = ElementTree.Element("domainsnapshot")
        ElementTree.SubElement(wanted, "name").text = name
        domain.snapshotCreateXML(ElementTree.tostring(wanted, encoding="unicode"), 0)

    @verb
    async def revert_snapshot(self, uuid: str, name: str) -> None:
        await self._snapshot_verb(f"revert to snapshot {name}", uuid, self._do_revert_snapshot, name)

    def _do_revert_snapshot(self, uuid: str, name: str) -> None:
        domain = self._do_find(uuid)
        snapshot = self._do_snapshot(domain, name)
        if snapshot is None:
            raise NoSuchThing(f"Domain {domain.name()} has no snapshot {name}.")
        self._do_steady(domain, "it can be reverted")
        kept = parse_snapshot(snapshot.getXMLDesc(0))
        if kept.external:
            raise Unsupported(f"Snapshot {name} of domain {domain.name()} is external: libvirt can't revert to it.")
        if kept.plugged and kept.snapshot.running:
            raise Unsupported(f"Snapshot {name} of domain {domain.name()} has hot-plugged CPUs: QEMU can't revert to it.")
        definition = domain.XMLDesc(_INACTIVE | _SECURE)
        _check_same(kept, parse_domain(definition))
        try:
            flags = libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING if kept.snapshot.running else 0
            domain.revertToSnapshot(snapshot, flags)
        finally:
            # libvirt has also reverted the definition, even if it failed halfway.
            if domain.isPersistent() and domain.XMLDesc(_INACTIVE | _SECURE) != definition:
                self._connection.defineXML(definition)

    @verb
    async def delete_snapshot(self, uuid: str, name: str) -> None:
        await self._snapshot_verb(f"removal of snapshot {name}", uuid, self._do_delete_snapshot, name)

    def _do_delete_snapshot(self, uuid: str, name: str) -> None:
        snapshot = self._do_snapshot(self._do_find(uuid), name)
        if snapshot is not None:
            snapshot.delete(0)


def _check_same(kept: SnapshotRecord, now: Description) -> None:
    """@raise WrongState: something that the snapshot depends on has changed."""
    then = kept.definition
    name = kept.snapshot.name
    if set(then.disks) != set(now.disks):
        told = ", ".join(f"{disk.target} ({disk.path})" for disk in then.disks)
        raise WrongState(f"Domain {now.name} had different disks when snapshot {name} was created: {told}.")
    if not kept.snapshot.running:
        return
    for field, words in _AMOUNTS.items():
        had, has = getattr(then, field), getattr(now, field)
        if had != has:
            raise WrongState(
                f"Domain {now.name} had {had} {words} when snapshot {name} was created, now {has}: change that first."
            )
    if set(then.interfaces) != set(now.interfaces):
        told = ", ".join(f"{one.mac} in {one.network}" for one in then.interfaces) or "none"
        raise WrongState(f"Domain {now.name} had different interfaces when snapshot {name} was created: {told}.")
