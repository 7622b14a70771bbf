"""
Pausing containers.

Dialect 7 reports paused containers itself. In dialect 4 they are recognized by a mark in the container's description or,
on kernels that aren't OpenVZ's, by the container's control group.
"""

from __future__ import annotations

from dataclasses import replace

from fluidvm.driver import DomainState, DriverError, WrongState
from fluidvm.drivers.openvz.identity import Mark, unpaused
from fluidvm.drivers.openvz.node import Container, VzNode, started, verb

PROBE = 10.0
"""Seconds in which a guest must run C{true} to show that it isn't frozen."""
RUNNING, PAUSED = DomainState.RUNNING, DomainState.PAUSED


class VzPausing(VzNode):
    """Uses C{vzctl chkpnt --suspend} and C{--resume}, or C{vzctl pause} and C{resume}."""

    @verb
    async def pause(self, uuid: str) -> None:
        await self._alone(uuid, lambda: self._pause(uuid))

    async def _pause(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is PAUSED:
            return
        if there.state is not RUNNING:
            raise WrongState(f"Container {there.info.name} is {there.state}: it can be paused only while it is running.")
        subject = f"pause of container {there.info.name}"
        if self._dialect.number == 7:
            await self._do(subject, "pause", there.ctid)
            return
        if await self._freezer(there.ctid):
            if await self._freezer(there.ctid, "FROZEN") not in ("FROZEN", "FREEZING"):
                raise DriverError(f"{subject}: its control group couldn't be frozen.")
            return
        # The mark is written first: a marked container that runs can be resumed, an unmarked frozen one would go unnoticed.
        before = await self._moment()
        there = await self._container(uuid)
        mark = there.identity.mark or there.identity.marked(there.info.max_vcpus, there.info.max_memory)
        await self._write_mark(subject, there, replace(mark, paused=started(before, there.listed.uptime)))
        outcome = await self._vz(subject, "chkpnt", there.ctid, "--suspend")
        if outcome.code != 0:
            await self._write_mark(subject, there, mark)
            raise self._explain(subject, outcome)

    @verb
    async def resume(self, uuid: str) -> None:
        await self._alone(uuid, lambda: self._resume(uuid))

    async def _resume(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is RUNNING:
            return
        if there.state is not PAUSED:
            raise WrongState(f"Container {there.info.name} is {there.state}: it can be resumed only while it is paused.")
        subject = f"resumption of container {there.info.name}"
        if self._dialect.number == 7:
            await self._do(subject, "resume", there.ctid)
            return
        if await self._freezer(there.ctid):
            if await self._freezer(there.ctid, "THAWED") != "THAWED":
                raise DriverError(f"{subject}: its control group couldn't be thawed.")
            return
        outcome = await self._vz(subject, "chkpnt", there.ctid, "--resume")
        if outcome.code != 0 and not await self._answers(there.ctid):
            raise self._explain(subject, outcome)
        assert there.identity.mark is not None
        await self._write_mark(subject, there, unpaused(there.identity.mark))

    async def _answers(self, ctid: str) -> bool:
        """Whether a marked container isn't frozen: somebody else has resumed it, or pausing it was interrupted."""
        argv = ["timeout", f"{PROBE:g}", "vzctl", "exec2", ctid, "true"]
        return (await self._run(argv)).code == 0

    async def _write_mark(self, subject: str, there: Container, mark: Mark) -> None:
        await self._set(subject, there.ctid, ["--description", str(mark)], [])
