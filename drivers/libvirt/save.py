"""Saving domains to the host's disk, through libvirt's managed saves; and resetting them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from zope.interface import implementer

from fluidvm.driver import DomainState, DriverError, IReset, ISave, Progress, WrongState
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domains import LibvirtDomains

LOOK = 0.5
"""Polling interval in seconds for the progress of a job."""


@implementer(ISave)
class LibvirtSave(LibvirtDomains):
    """A host that can save domains. libvirt chooses the file, and has a record of it as long as the domain exists."""

    # The domain must run after it is restored, even if it is paused now.
    save_flags = libvirt.VIR_DOMAIN_SAVE_RUNNING

    @verb
    async def save(self, uuid: str, progress: Progress) -> None:
        def begin() -> Any:
            domain = self._do_find(uuid)
            state = self._do_state(domain)
            if state is DomainState.SAVED:
                return None
            if state not in (DomainState.RUNNING, DomainState.PAUSED):
                raise WrongState(f"Domain {domain.name()} is {state}; it can be saved only while it is running or paused.")
            return domain

        domain = await self._call(f"saving domain {uuid}", begin)
        if domain is not None:
            await self._long(f"saving domain {uuid}", domain, lambda: domain.managedSave(self.save_flags), progress)
        progress(100)

    @verb
    async def restore(self, uuid: str, progress: Progress) -> None:
        def begin() -> Any:
            domain = self._do_find(uuid)
            state = self._do_state(domain)
            if state is DomainState.RUNNING:
                return None
            if state is not DomainState.SAVED:
                raise WrongState(f"Domain {domain.name()} is {state}, and has no saved state.")
            return domain

        domain = await self._call(f"restoring domain {uuid}", begin)
        if domain is not None:
            await self._long(f"restoring domain {uuid}", domain, domain.create, progress)
        progress(100)

    async def _long(self, subject: str, domain: Any, function: Callable[[], Any], progress: Progress) -> None:
        """Run a long operation in parallel with other calls, and report its progress. Cancelling makes libvirt abort it."""
        working = self._host.run_long(self._guarded, subject, function)
        ended: list[Any] = []
        working.addBoth(ended.append)
        cancelled = False
        while not ended:
            try:
                await self._wait(LOOK)
                progress(await self._call(subject, _do_measure, domain))
            except CancelledError:
                cancelled = True
                try:
                    await self._call(subject, domain.abortJob)
                except DriverError as error:
                    self._log.info("{subject}: {error}", subject=subject, error=error)
            except DriverError:
                continue
        if isinstance(ended[0], Failure):
            if cancelled:
                raise CancelledError
            ended[0].raiseException()


def _do_measure(domain: Any) -> int:
    """The percentage of the memory that has been written or read."""
    told = domain.jobStats()
    total = told.get(libvirt.VIR_DOMAIN_JOB_DATA_TOTAL, 0)
    return min(99, 100 * told.get(libvirt.VIR_DOMAIN_JOB_DATA_PROCESSED, 0) // total) if total else 0


@implementer(IReset)
class LibvirtReset(LibvirtDomains):
    """A host whose domains can be reset."""

    @verb
    async def reset(self, uuid: str) -> None:
        def act(domain: Any, state: DomainState) -> None:
            if state is not DomainState.RUNNING or not domain.isActive():
                raise WrongState(f"Domain {domain.name()} is {state}; it can be reset only while it is running.")
            domain.reset(0)

        await self._power("reset", uuid, act)
