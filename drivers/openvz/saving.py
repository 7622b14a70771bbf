"""Saving containers to the node's disk, restoring and resetting them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from fluidvm.driver import DomainState, IReset, ISave, Progress, WrongState
from fluidvm.drivers.openvz.node import LONG, verb
from fluidvm.drivers.openvz.pausing import VzPausing
from fluidvm.drivers.openvz.runner import Outcome

LOOK = 0.1
"""Polling interval in seconds for the suspension of a container."""


@implementer(ISave, IReset)
class VzSaving(VzPausing):
    """Uses C{vzctl suspend} and C{resume}, which work on OpenVZ kernels, and on others only if CRIU works."""

    @verb
    async def save(self, uuid: str, progress: Progress) -> None:
        await self._alone(uuid, lambda: self._save(uuid))
        progress(100)

    async def _save(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is DomainState.SAVED:
            return
        if there.state not in (DomainState.RUNNING, DomainState.PAUSED):
            raise WrongState(f"Container {there.info.name} is {there.state}: it can be saved only while it is running.")
        subject = f"saving of container {there.info.name}"
        paused = there.state is DomainState.PAUSED
        if paused:
            await self._resume(uuid)
        outcome, cancelled = await self._suspend(subject, there.ctid)
        saved = (await self._container(uuid)).state is DomainState.SAVED
        if saved and cancelled:
            await self._restore(uuid)
        if paused and (cancelled or not saved):
            await self._pause(uuid)
        if cancelled:
            raise CancelledError
        if not saved:
            raise self._explain(subject, outcome)

    async def _suspend(self, subject: str, ctid: str) -> tuple[Outcome, bool]:
        """Suspend a container with vzctl, which can't be stopped half-way. Returns whether this was cancelled meanwhile."""
        ended: list[Any] = []
        Deferred.fromCoroutine(self._vz(subject, "suspend", ctid, timeout=LONG)).addBoth(ended.append)
        cancelled = False
        while not ended:
            try:
                await self._wait(LOOK)
            except CancelledError:
                cancelled = True
        if isinstance(ended[0], Failure):
            ended[0].raiseException()
        return ended[0], cancelled

    @verb
    async def restore(self, uuid: str, progress: Progress) -> None:
        await self._alone(uuid, lambda: self._restore(uuid))
        progress(100)

    async def _restore(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is DomainState.RUNNING:
            return
        if there.state is not DomainState.SAVED:
            raise WrongState(f"Container {there.info.name} is {there.state}: it has no saved state.")
        subject = f"restoring of container {there.info.name}"
        outcome = await self._vz(subject, "resume", there.ctid, timeout=LONG)
        if (await self._container(uuid)).state is not DomainState.RUNNING:
            raise self._explain(subject, outcome)

    @verb
    async def reset(self, uuid: str) -> None:
        await self._alone(uuid, lambda: self._reset(uuid))

    async def _reset(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is not DomainState.RUNNING:
            raise WrongState(f"Container {there.info.name} is {there.state}: it can be reset only while it is running.")
        subject = f"reset of container {there.info.name}"
        await self._do(subject, "stop", there.ctid, "--fast")
        await self._do(subject, "start", there.ctid)
