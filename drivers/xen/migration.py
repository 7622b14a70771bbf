"""Moving Xen's domains to another host, through libxl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import libvirt
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from fluidvm.driver import DomainSpec, DomainState, DriverError, IMigration, Progress, Unsupported
from fluidvm.drivers.libvirt.domain_xml import parse_domain
from fluidvm.drivers.libvirt.migration import LOOK, LibvirtMigration

FLAGS = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE


@implementer(IMigration)
class XenMigration(LibvirtMigration):
    """
    A host whose domains can be moved: stopped ones with their disks, running ones if both hosts can access the disks.

    The server controls the move through its two connections ("managed direct", U{https://libvirt.org/migration.html}); the
    memory goes from dom0 to dom0. libxl can't be stopped during a move, and doesn't copy disks.
    """

    migrates_live = True
    _stands_still = False

    @property
    def arrival_uri(self) -> str:
        """The address to which the memory of a domain that moves here must be sent."""
        return str(self._options.get("migration_uri", ""))

    async def _move_running(
        self, subject: str, spec: DomainSpec, to: Any, pairs: Sequence[tuple[str, str]], progress: Progress
    ) -> None:
        if pairs:
            raise Unsupported(
                f"Domain {spec.name} has disks, which Xen copies only while it is stopped; stop it to move it."
            )
        if not to.arrival_uri:
            # libvirt would use the other host's own name; if that doesn't resolve correctly, it leaves the domain locked.
            raise Unsupported("Running domains can't be moved to the other host: set its option migration_uri.")
        moving = self._call_in(self._host.run_long, subject, self._do_move, spec, to.libvirt, to.arrival_uri)
        await self._to_the_end(self._watched(subject, spec, moving, progress))
        progress(100)

    async def _watched(self, subject: str, spec: DomainSpec, moving: Any, progress: Progress) -> None:
        ended: list[Any] = []
        Deferred.fromCoroutine(moving).addBoth(ended.append)
        while not ended:
            await self._wait(LOOK)
            try:
                if await self._call(subject, self._do_is_moving, spec.uuid):
                    progress(0)  # libxl doesn't report the progress
            except (DriverError, CancelledError):
                continue  # the domain was moved during the query; the moving call reports the result
        if isinstance(ended[0], Failure):
            ended[0].raiseException()

    def _do_is_moving(self, uuid: str) -> bool:
        return bool(self._connection.lookupByUUIDString(uuid).jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)

    def _do_move(self, spec: DomainSpec, to: Any, uri: str) -> None:
        domain = self._do_find(spec.uuid)
        here = {disk.target: disk.path for disk in parse_domain(domain.XMLDesc(0)).disks}
        if here != {disk.target: disk.path for disk in spec.disks}:
            raise Unsupported(
                f"Domain {spec.name} is running with different disks than those requested there; stop it to move it."
            )
        parameters = {libvirt.VIR_MIGRATE_PARAM_URI: uri}
        if self._stands_still or not self._do_send_live(domain, to, parameters):
            domain.migrate3(to, parameters, FLAGS)
        to.lookupByUUIDString(spec.uuid).setAutostart(1 if spec.autostart else 0)

    def _do_send_live(self, domain: Any, to: Any, parameters: dict[str, str]) -> bool:
        """
        Send a running domain.

        A Xen without shadow paging can't track which pages a paravirtual guest writes (Debian's 4.17: "Failed to enable
        logdirty"): there the guest is paused while its memory is transferred.

        @return: whether it was moved; if not, it runs here as before.
        """
        try:
            domain.migrate3(to, parameters, FLAGS | libvirt.VIR_MIGRATE_LIVE)
        except libvirt.libvirtError:
            if self._do_is_moving(domain.UUIDString()):
                raise self._locked(domain.name()) from None
            self._stands_still = self._options.get("guests", "pv") == "pv" and self._do_state(domain) is DomainState.RUNNING
            if not self._stands_still:
                raise
        return not self._stands_still

    def _locked(self, name: str) -> DriverError:
        """The error for the state in which libvirt 9.0 leaves a domain that the other host couldn't receive."""
        return DriverError(
            f"Domain {name} couldn't be sent: the other host can't listen at its migration_uri, or lacks memory; the domain "
            "keeps running, but libvirt keeps it locked here until libvirtd is restarted in dom0."
        )
