"""Snapshots of containers whose file system is a ploop image."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Sequence

from zope.interface import implementer

from fluidvm.driver import DomainState, DriverError, ISnapshots, NoSuchThing, Snapshot, Unsupported, WrongState
from fluidvm.drivers.openvz.dialect import Snapshot as Told
from fluidvm.drivers.openvz.dialect import parse_snapshots
from fluidvm.drivers.openvz.identity import check_text
from fluidvm.drivers.openvz.node import LONG, Container, VzNode, verb

FIELDS = "uuid,parent_uuid,current,date,name"
"""The field with free text comes last."""
STEADY = (DomainState.RUNNING, DomainState.STOPPED, DomainState.CRASHED)
"""States in which snapshots can be created and reverted to."""


def id_of(uuid: str, name: str) -> str:
    """A snapshot's id, derived from its domain's and its name: a repetition finds the snapshot of the first attempt."""
    return str(uuids.uuid5(uuids.UUID(uuid), name))


@implementer(ISnapshots)
class VzSnapshots(VzNode):
    """Uses C{vzctl snapshot} and related commands. The configuration stays as it is when a container is reverted."""

    @verb
    async def list_snapshots(self, uuid: str) -> Sequence[Snapshot]:
        there = await self._container(uuid)
        if there.listed.layout != "ploop":
            return []
        told = await self._told(there)
        # The dates are the node's local time.
        dates = "".join(f"{one.created}\n" for one in told).encode()
        seconds = (await self._run(["date", "-f", "-", "+%s"], stdin=dates)).stdout.split() if told else []
        if len(seconds) != len(told):
            raise DriverError(f"Container {there.info.name}: the dates of its snapshots aren't valid.")
        dumps = (await self._run(["ls", f"{there.listed.private}/dump"])).stdout.split()
        found = [
            Snapshot(one.name or one.uuid, float(when), any(dump.strip("{}") == one.uuid for dump in dumps))
            for one, when in zip(told, seconds, strict=True)
        ]
        return sorted(found, key=lambda snapshot: snapshot.created)

    async def _told(self, there: Container, patience: float = 0.0) -> list[Told]:
        """@param patience: seconds to wait for the container's lock."""
        subject = f"snapshots of container {there.info.name}"
        outcome = await self._vz(subject, "snapshot-list", there.ctid, "-H", "-o", FIELDS, patience=patience)
        if outcome.code != 0:
            raise self._explain(subject, outcome)
        return parse_snapshots(outcome.stdout)

    async def _snapshot(self, there: Container, name: str) -> str | None:
        """A snapshot's id; C{None} if there is none with this name."""
        for one in await self._told(there, LONG):
            if name in (one.name, one.uuid):
                return one.uuid
        return None

    @verb
    async def create_snapshot(self, uuid: str, name: str) -> None:
        await self._alone(uuid, lambda: self._create_snapshot(uuid, name))

    async def _create_snapshot(self, uuid: str, name: str) -> None:
        there = await self._container(uuid)
        check_text("A snapshot's name", name)
        if there.listed.layout != "ploop":
            raise Unsupported(f"Container {there.info.name}: snapshots need layout ploop, not {there.listed.layout}.")
        if await self._snapshot(there, name) is not None:
            return
        if there.state not in STEADY:
            raise WrongState(
                f"Container {there.info.name} is {there.state}: create snapshots only while it is running or stopped."
            )
        subject = f"snapshot of container {there.info.name}"
        words = ["snapshot", there.ctid, "--id", id_of(uuid, name), "--name", name]
        outcome = await self._vz(subject, *words, timeout=LONG)
        # An earlier attempt may have created it meanwhile.
        if outcome.code != 0 and await self._snapshot(there, name) is None:
            raise self._explain(subject, outcome)

    @verb
    async def revert_snapshot(self, uuid: str, name: str) -> None:
        await self._alone(uuid, lambda: self._revert_snapshot(uuid, name))

    async def _revert_snapshot(self, uuid: str, name: str) -> None:
        there = await self._container(uuid)
        id = await self._snapshot(there, name) if there.listed.layout == "ploop" else None
        if id is None:
            raise NoSuchThing(f"Container {there.info.name} has no snapshot {name}.")
        if there.state not in STEADY:
            raise WrongState(
                f"Container {there.info.name} is {there.state}: it can be reverted only while it is running or stopped."
            )
        subject = f"reverting of container {there.info.name}"
        await self._do(subject, "snapshot-switch", there.ctid, "--id", id, "--skip-config", timeout=LONG)

    @verb
    async def delete_snapshot(self, uuid: str, name: str) -> None:
        await self._alone(uuid, lambda: self._delete_snapshot(uuid, name))

    async def _delete_snapshot(self, uuid: str, name: str) -> None:
        there = await self._container(uuid)
        id = await self._snapshot(there, name) if there.listed.layout == "ploop" else None
        if id is not None:
            subject = f"removal of a snapshot of container {there.info.name}"
            outcome = await self._vz(subject, "snapshot-delete", there.ctid, "--id", id, timeout=LONG)
            if outcome.code != 0 and await self._snapshot(there, name) is not None:
                raise self._explain(subject, outcome)
