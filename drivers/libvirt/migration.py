"""Moving stopped domains to another libvirt host, with the contents of their volumes."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import libvirt
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from fluidvm.driver import AlreadyThere, DomainDisk, DomainSpec, DomainState, IMigration, NoSuchThing, Progress, WrongState
from fluidvm.drivers.libvirt.bytes import Copying, allocated, copy
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.disks import LibvirtDisks, checked
from fluidvm.drivers.libvirt.domain_xml import parse_domain
from fluidvm.drivers.libvirt.errors import code_of

LOOK = 0.25
"""Polling interval in seconds for the progress of a copy."""


@implementer(IMigration)
class LibvirtMigration(LibvirtDisks):
    """A host whose stopped domains can be moved; the contents of their volumes pass through the server, as streams."""

    migrates_live = False

    @property
    def libvirt(self) -> Any:
        """For the host from which a domain comes, which only has the server's wrapper of this connection."""
        return self._connection

    @verb
    async def migrate(self, spec: DomainSpec, to: Any, live: bool, copy_storage: bool, progress: Progress) -> None:
        subject = f"moving domain {spec.name}"
        disks = await self._call(subject, self._do_look_here, spec.uuid)
        others = {domain.uuid: domain for domain in await to.list_domains()}
        if disks is None:
            if spec.uuid not in others:
                raise NoSuchThing(f"The host has no domain {spec.uuid}.")
            return
        if spec.uuid not in others:
            running = await self._call(subject, self._do_check_movable, spec.uuid, live)
            if any(domain.name == spec.name for domain in others.values()):
                raise AlreadyThere(f"The other host has another domain {spec.name}.")
            if running:
                await self._move_running(subject, spec, to, _pairs(spec, disks) if copy_storage else [], progress)
                return
            if copy_storage:
                await self._copy(subject, to, spec, _pairs(spec, disks), progress)
        # Once the domain is defined there, its disks are complete: from here on the move is only finished.
        await self._to_the_end(self._hand_over(spec, to, spec.uuid in others))
        progress(100)

    def _do_look_here(self, uuid: str) -> Sequence[DomainDisk] | None:
        try:
            domain = self._do_find(uuid)
        except NoSuchThing:
            return None
        return parse_domain(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).disks

    def _do_check_movable(self, uuid: str, live: bool) -> bool:
        """Whether the domain is moved while it runs. @raise WrongState: it can't be moved in its current state."""
        domain = self._do_find(uuid)
        state = self._do_state(domain)
        if state is DomainState.RUNNING and self.migrates_live:
            if not live:
                raise WrongState(f"Domain {domain.name()} is running: stop it, or move it live.")
            return True
        if domain.isActive() or state not in (DomainState.STOPPED, DomainState.CRASHED):
            raise WrongState(f"Domain {domain.name()} is {state}; it can be moved only while it is stopped.")
        return False

    async def _move_running(
        self, subject: str, spec: DomainSpec, to: Any, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        """
        Move a domain while it runs.

        @param pairs: the paths, here and there, of the disks to copy.
        """
        raise NotImplementedError

    async def _hand_over(self, spec: DomainSpec, to: Any, there: bool) -> None:
        if there and (await to.get_domain(spec.uuid)).state is DomainState.RUNNING:
            await self._call(f"moving domain {spec.name}", self._do_end_paused, spec.uuid)
        if not there:
            await self._call(f"moving domain {spec.name}", self._do_check_movable, spec.uuid, False)
            await to.define_domain(spec)
        try:
            await self.undefine_domain(spec.uuid)
        except Exception:
            if not there:
                await to.undefine_domain(spec.uuid)
            raise

    def _do_end_paused(self, uuid: str) -> None:
        """Remove the paused remains of a domain that runs on the other host: the server was killed while it moved it."""
        domain = self._do_find(uuid)
        if domain.isActive() and self._do_state(domain) is DomainState.PAUSED:
            domain.destroy()

    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for an operation that must be completed, even if this is cancelled."""
        ended: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(ended.append)
        while not ended:
            try:
                await self._wait(LOOK)
            except CancelledError:
                continue
        if isinstance(ended[0], Failure):
            ended[0].raiseException()

    async def _copy(
        self, subject: str, to: Any, spec: DomainSpec, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        copying = Copying()
        formats = {disk.path: disk.format for disk in spec.disks}
        working = self._host.run_long(self._guarded, subject, self._do_copy_all, to, pairs, formats, copying)
        ended: list[Any] = []
        working.addBoth(ended.append)
        cancelled, told = False, 0
        while not ended:
            try:
                await self._wait(LOOK)
                if copying.done > told:
                    told = copying.done  # a copy that makes no progress reports none, so that the server notices
                    progress(copying.percentage)
            except CancelledError:
                cancelled = True
                copying.stop.set()
        if cancelled:
            raise CancelledError
        if isinstance(ended[0], Failure):
            ended[0].raiseException()

    def _do_copy_all(self, to: Any, pairs: Sequence[tuple[str, str]], formats: Mapping[str, str], copying: Copying) -> None:
        volumes = []
        for here, there in pairs:
            source, target = _do_volume_at(self._connection, here), _do_volume_at(to.libvirt, there)
            volumes.append((source, target))
            size = checked(self._connection, "", source, formats[there]).size
            if size != checked(to.libvirt, "", target, formats[there]).size:
                raise AlreadyThere(f"Volume {target.name()} differs in size from {source.name()}.")
            copying.total += allocated(source)
        for source, target in volumes:
            copy(self._connection.newStream(), source, to.libvirt.newStream(), target, copying)
            if copying.stop.is_set():
                return


def _pairs(spec: DomainSpec, disks: Sequence[DomainDisk]) -> list[tuple[str, str]]:
    """The paths of each disk, here and there."""
    new = {disk.target: disk for disk in spec.disks}
    for disk in disks:
        if disk.target not in new:
            raise NoSuchThing(f"Disk {disk.target} of domain {spec.name} has no volume to be copied to.")
        if new[disk.target].format != disk.format:
            raise AlreadyThere(f"{new[disk.target].path} has a different format than {disk.path}.")
    return [(disk.path, new[disk.target].path) for disk in disks]


def _do_volume_at(connection: Any, path: str) -> Any:
    try:
        return connection.storageVolLookupByPath(path)
    except libvirt.libvirtError as error:
        if code_of(error) == libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise NoSuchThing(f"{path} isn't a volume on its host.") from error
        raise
