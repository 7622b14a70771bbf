"""Moving QEMU's running domains to another libvirt host: memory and disks go from host to host, not through the server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import libvirt
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from fluidvm.driver import DomainSpec, DriverError, Progress, Unreachable, Unsupported, WrongState
from fluidvm.drivers.libvirt.errors import code_of
from fluidvm.drivers.libvirt.migration import LOOK, LibvirtMigration

GIVE_UP = 20.0
"""Seconds in which a host must abort a move that nobody waits for anymore."""
FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    # A guest that writes faster than the network can transfer is slowed down during the move.
    | libvirt.VIR_MIGRATE_AUTO_CONVERGE
    | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
)


@dataclass
class Moving:
    """The progress of a move: C{told} is the percentage last reported, C{bytes} are the bytes transferred."""

    told: int = 0
    bytes: int = 0
    ended: list[Any] = field(default_factory=list)


class LibvirtLiveMigration(LibvirtMigration):
    """
    A host whose running domains can also be moved.

    The server controls the move through its two connections ("managed direct", U{https://libvirt.org/migration.html}), so
    the hosts' daemons need no connection to each other; only QEMU on one host connects to QEMU on the other.
    """

    migrates_live = True

    def arrival(self, uuid: str) -> Mapping[str, str]:
        """The migration parameters for a domain that moves to this host."""
        uri = str(self._options.get("migration_uri", ""))
        if uri.startswith("unix:"):
            return {
                libvirt.VIR_MIGRATE_PARAM_URI: f"{uri}/{uuid}.memory",
                libvirt.VIR_MIGRATE_PARAM_DISKS_URI: f"{uri}/{uuid}.disks",
            }
        return {libvirt.VIR_MIGRATE_PARAM_URI: uri} if uri else {}

    async def _move_running(
        self, subject: str, spec: DomainSpec, to: Any, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        here, there = await self.platform(spec.uuid), await to.platform(spec.uuid)
        if (here.kind, here.machine) != (there.kind, there.machine):
            raise Unsupported(
                f"Domain {spec.name} runs as {here.kind} on a machine {here.machine} here, but would run as "
                f"{there.kind} on a machine {there.machine} on the other host; stop it to move it."
            )
        parameters = {**to.arrival(spec.uuid), libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: await to.definition(spec)}
        flags = FLAGS | (libvirt.VIR_MIGRATE_NON_SHARED_DISK if pairs else 0)
        moving = Moving()
        working = self._host.run_long(
            self._guarded, subject, self._do_move, spec, dict(pairs), there.console_log, to.libvirt, parameters, flags
        )
        working.addBoth(moving.ended.append)
        cancelled = False
        while not moving.ended:
            try:
                await self._wait(LOOK)
                if cancelled or not to.libvirt.isAlive():
                    # If the daemon there is lost, QEMU here would keep sending.
                    await self._call(subject, self._do_abort, spec.uuid)
                elif await self._goes_on(spec.uuid, moving):
                    progress(moving.told)
            except CancelledError:
                cancelled = True
            except DriverError as error:
                # The domain or its host was lost during the query; the moving call reports that.
                self._log.debug("Reading the progress of moving {uuid} failed: {error}", uuid=spec.uuid, error=error)
        if isinstance(moving.ended[0], Failure):
            if cancelled:
                raise CancelledError
            if not to.libvirt.isAlive():
                raise Unreachable(f"Domain {spec.name} is still here: the other host was lost during the move.")
            moving.ended[0].raiseException()
        progress(100)

    def _do_move(
        self, spec: DomainSpec, paths: Mapping[str, str], log: str, to: Any, parameters: Mapping[str, str], flags: int
    ) -> None:
        domain = self._do_find(spec.uuid)
        self._do_give_up(domain)
        text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)
        domain.migrate3(to, {**parameters, libvirt.VIR_MIGRATE_PARAM_DEST_XML: moved_xml(text, paths, log)}, flags)
        to.lookupByUUIDString(spec.uuid).setAutostart(1 if spec.autostart else 0)

    def _do_give_up(self, domain: Any) -> None:
        """
        End a move during which the server was killed: a host that was copying disks doesn't end it by itself (libvirt 9.0).

        @raise WrongState: another operation is in progress, or the move doesn't end.
        """
        deadline = self._seconds() + GIVE_UP
        while (job := domain.jobStats())["type"] != libvirt.VIR_DOMAIN_JOB_NONE:
            if job.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT or self._seconds() > deadline:
                raise WrongState(f"Domain {domain.name()} is busy with another operation; try again when that has ended.")
            with suppress(libvirt.libvirtError):  # the job has ended in between, or is ending
                domain.abortJob()
            time.sleep(LOOK)

    async def _goes_on(self, uuid: str, moving: Moving) -> bool:
        """Update the progress. Returns whether anything was transferred since the last call."""
        stats = await self._call(f"move of domain {uuid}", lambda: self._do_find(uuid).jobStats())
        before, moving.bytes = moving.bytes, int(stats.get("data_processed", 0))
        total, left = int(stats.get("data_total", 0)), int(stats.get("data_remaining", 0))
        if total:
            # What the guest writes meanwhile must be sent again, so more can be left than before.
            moving.told = max(moving.told, min(99, 100 * (total - left) // total))
        return moving.bytes > before

    def _do_abort(self, uuid: str) -> None:
        try:
            self._do_find(uuid).abortJob()
        except libvirt.libvirtError as error:
            # The move hasn't begun, or it is too late; this is repeated until it has ended.
            if code_of(error) != libvirt.VIR_ERR_OPERATION_INVALID:
                raise


def moved_xml(text: str, paths: Mapping[str, str], log: str) -> str:
    """
    A running domain's definition for the host to which it moves.

    @param paths: the paths of its disks there, by those here.
    @param log: the file for its serial console's output there; empty: none.
    """
    domain = ElementTree.fromstring(text)  # noqa: S314 - libvirtd is trusted: it is root on that host
    for disk in domain.iterfind("devices/disk"):
        source, backing = disk.find("source"), disk.find("backingStore")
        if source is not None and source.get("file") in paths:
            source.set("file", paths[source.get("file", "")])
            # The copy has no backing file; if the definition didn't say so, the other host would search the file for one.
            if backing is None:
                backing = ElementTree.SubElement(disk, "backingStore")
            backing.clear()
    for port in (*domain.iterfind("devices/serial"), *domain.iterfind("devices/console")):
        there = port.find("log")
        if there is not None and log:
            there.set("file", log)
        elif there is not None:
            port.remove(there)
    return ElementTree.tostring(domain, encoding="unicode")
