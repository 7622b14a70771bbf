"""
The rehearsal of C{plan_tasks}: a dry run of the tasks' own bodies.

The inventory is changed during one call and restored before anything else runs. The simulator's model replaces each
hypervisor. So a rehearsal makes all checks that the bodies make, and gives the same faults.

The server answers no other call meanwhile. So nothing waits here, no time passes, and the cost of a rehearsal is limited.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from fluidvm.auth import permissions
from fluidvm.auth.sessions import PendingTask, Session
from fluidvm.driver import (
    DomainInfo,
    DomainState,
    DriverError,
    IAdoption,
    IConnection,
    IDisks,
    IMigration,
    Interface,
    ISnapshots,
    NoSuchThing,
    Snapshot,
    Unsupported,
    Volume,
)
from fluidvm.engine.errors import fault_of
from fluidvm.engine.job import Job, Resources
from fluidvm.engine.rehearsal_files import Looked, PlannedImages, PlannedUploads, look_at_uploads
from fluidvm.engine.slots import Slots
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.faults import ApiFault, Conflict, TooLarge, Unavailable
from fluidvm.model.objects import ComputeNode

MOST_STEPS = 20_000
"""Maximum number of steps of all tasks in one rehearsal."""
SAVED = 1.0
"""CPU time, in seconds, that one user's rehearsals may take at once if the user has had none for a while."""
SHARE = 0.2
"""CPU time, in seconds per second, that they may take beyond that. A rehearsal that would need more waits."""
LONGEST = 0.5
"""Maximum CPU time of one rehearsal, in seconds."""
ModelOf = Callable[..., Any]
"""Makes the model of a compute node: a connection to a simulated node. Its arguments: L{fluidvm.server.model.model_of}."""


class Still:
    """A driver's host whose clock stands still: nothing takes time in a rehearsal."""

    clock = Clock()


class Effort:
    """
    The cost of a rehearsal.

    @param spent: returns the CPU time in seconds. Wall-clock time would include what other programs use.
    """

    def __init__(self, spent: Callable[[], float]) -> None:
        self._spent = spent
        self._end = spent() + LONGEST
        self._steps = 0

    def step(self) -> None:
        """Count a step. @raise TooLarge: the cost of the rehearsal is too high."""
        self._steps += 1
        if self._steps > MOST_STEPS or self._spent() > self._end:
            raise TooLarge("The pending tasks take too long to plan at once: plan fewer tasks at a time.")


class _Nodes:
    """
    Simulated compute nodes; replaces L{fluidvm.nodes.nodes.Nodes} for the jobs of a rehearsal.

    @ivar asked: the id of the last node that was requested.
    @ivar effort: the cost of the rehearsal so far.
    """

    effort: Effort

    def __init__(self, resources: Resources, model: ModelOf) -> None:
        self._real = resources.nodes
        self._model = model
        self._inventory = resources.inventory
        self._models: dict[int, Any] = {}
        self._strangers: dict[int, list[tuple[DomainInfo, list[Volume], list[Snapshot]]]] = {}
        self._refused: dict[int, dict[str, Exception]] = {}
        self._new: set[int] = set()
        self.asked: int | None = None

    async def connection(self, id: int, ability: type[Interface] = IConnection) -> Any:
        self.asked = id
        self.effort.step()
        if id not in self._models:
            self._check(id, ability)
            formats = self.formats(id) if self.provides(id, IDisks) else ()
            strangers, refused = self._strangers.get(id, ()), self._refused.get(id, {})
            model = self._models[id] = self._model(self._inventory, id, self.effort, strangers, formats, refused)
            if self.provides(id, IMigration):
                model.migrates_live = self._real.check(id, IMigration).migrates_live
        self._real.check(id, ability)
        return self._models[id]

    def _check(self, id: int, ability: type[Interface]) -> None:
        node = self._inventory.get(ComputeNode, id)
        if id in self._new:
            raise Unavailable(f"The abilities of compute node {node.name} are unknown until the task that adds it has run.")
        self._real.check(id, ability)

    async def meet(self, id: int, uuids: set[str]) -> None:
        """List the foreign guests of a node, because tasks adopt some of them. C{uuids}: the guests to adopt."""
        strangers = self._strangers[id] = []
        with suppress(ApiFault, DriverError):  # the task itself reports it
            connection = await self._real.connection(id, IAdoption)
            for info in await (await self._real.connection(id)).list_domains():
                if self._inventory.vm_of(info.uuid) is not None:
                    continue
                volumes: list[Volume] = []
                kept: list[Snapshot] = []
                strangers.append((info, volumes, kept))
                if info.uuid not in uuids:
                    continue
                try:
                    await connection.get_spec(info.uuid)
                except DriverError as error:
                    self._refused.setdefault(id, {})[info.uuid] = error
                if self.provides(id, ISnapshots):
                    kept += await (await self._real.connection(id, ISnapshots)).list_snapshots(info.uuid)
                for disk in info.disks:
                    try:
                        volumes.append(await connection.volume_of(disk.path, disk.format))
                    except (NoSuchThing, Unsupported) as error:
                        self._refused.setdefault(id, {})[disk.path] = error

    def provides(self, id: int, ability: type[Interface]) -> bool:
        return self._real.provides(id, ability)

    def pool_space(self, id: int, pool: str) -> int | None:
        return self._real.pool_space(id, pool)

    def formats(self, id: int) -> tuple[str, ...]:
        return self._real.formats(id)

    async def settled(self) -> bool:
        return False

    async def refresh(self, id: int) -> None:
        self.asked = id
        self._check(id, IConnection)

    async def unwatch(self, id: int) -> None:
        """A rehearsal disconnects no node."""

    def watch(self, node: ComputeNode) -> Deferred[None]:
        self._new.add(node.id)
        return succeed(None)


class _Sessions:
    """Replaces L{fluidvm.auth.sessions.Sessions}: a rehearsal ends no session."""

    def close_user(self, user: int, but: Session | None = None) -> None:
        pass


class _Rehearsal(Job):
    """
    A job whose changes last only until the rehearsal ends.

    @ivar effort: the cost of the rehearsal so far.
    """

    effort: Effort

    async def flush(self) -> None:
        self.effort.step()
        self.inventory.rehearse(self.take_facts())

    async def pause(self, seconds: float) -> None:
        """Don't wait: assume that the awaited event happens."""
        self.effort.step()

    async def until_state(
        self,
        node: int,
        uuid: str,
        state: DomainState,
        timeout: float,
        otherwise: str,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Don't wait: a simulated guest obeys at once, so its state doesn't change later."""
        if (await self.domain(node, uuid)).state is not state:
            raise Conflict(otherwise)


class Rehearsals:
    """
    Rehearses pending tasks, those of one session at a time.

    @param model: makes the model of a compute node; see L{fluidvm.server.model.model_of}.
    @param turn: returns a Deferred that fires when the reactor has handled all other events.
    @param spent: returns the CPU time of this thread in seconds.
    """

    def __init__(
        self,
        resources: Resources,
        model: ModelOf,
        turn: Callable[[], Deferred[None]],
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._resources = resources
        self._clock = resources.clock
        self._model = model
        self._turn = turn
        self._spent = spent
        self._lock = DeferredLock()
        self._debts: dict[int, tuple[float, float]] = {}

    async def rehearse(self, session: Session) -> list[dict[str, Any]]:
        """
        Rehearse a session's pending tasks.

        @return: for each task C{task} (its number, from 1), C{ok}, C{code}, C{error} and C{node}.
        """
        nodes, pending = _Nodes(self._resources, self._model), list(session.pending)
        adopted: dict[int, set[str]] = {}
        uploads: set[tuple[int, str, str]] = set()
        for task in pending:
            if IAdoption in task.method.needs:
                node, uuid = task.arguments[:2]
                adopted.setdefault(node, set()).add(uuid)
            elif task.method.name == "import_image" and "upload" in task.arguments[0]:
                uploads.add((session.user, task.arguments[0]["upload"], task.arguments[0]["format"]))
        for node, uuids in adopted.items():
            await nodes.meet(node, uuids)
        looked = await look_at_uploads(self._resources.uploads, uploads)
        while True:
            await self._rest(session.user)
            await self._lock.acquire()
            try:
                if self._debt(session.user) > SAVED:
                    continue  # another rehearsal of this user was first
                # Other clients get their turns in between, even if one client rehearses repeatedly, also in one request.
                await self._turn()
                before = self._spent()
                try:
                    return self._rehearse(nodes, looked, session.user, pending)
                finally:
                    self._debts[session.user] = self._debt(session.user) + self._spent() - before, self._clock.seconds()
            finally:
                self._lock.release()

    def _debt(self, user: int) -> float:
        """CPU time, in seconds, that a user's rehearsals have taken beyond the user's share."""
        debt, since = self._debts.get(user, (0.0, 0.0))
        return max(0.0, debt - SHARE * (self._clock.seconds() - since))

    async def _rest(self, user: int) -> None:
        """Wait until a user has less than L{SAVED} of debt."""
        self._debts = {other: self._debts[other] for other in self._debts if self._debt(other) > 0}
        while (over := self._debt(user) - SAVED) > 0:
            await deferLater(self._clock, over / SHARE + 0.001)

    def _rehearse(self, nodes: _Nodes, looked: Looked, actor: int, pending: Sequence[PendingTask]) -> list[dict[str, Any]]:
        nodes.effort = Effort(self._spent)
        images = PlannedImages(self._resources.images, looked)
        uploads = PlannedUploads(self._resources.uploads, self._resources.inventory.ledger, images)
        stood_in = {"nodes": nodes, "sessions": _Sessions(), "images": images, "uploads": uploads, "clock": Still.clock}
        planned = replace(self._resources, **stood_in)  # type: ignore[arg-type]
        with planned.inventory.rehearsal():
            try:
                return [_try(planned, nodes, actor, place, task) for place, task in enumerate(pending, 1)]
            finally:
                uploads.restore()


def _try(planned: Resources, nodes: _Nodes, actor: int, place: int, task: PendingTask) -> dict[str, Any]:
    nodes.asked = None
    job = _Rehearsal(
        planned, task.target, actor, {}, lambda memo: (lambda connection: None, ()), _ignore, _ignore, Slots(1), object()
    )
    job.effort = nodes.effort
    outcome: list[Failure | None] = []
    running = Deferred.fromCoroutine(_run(planned.inventory, actor, task, job))
    running.addBoth(outcome.append)
    fault: ApiFault | None = None
    if not outcome:
        running.cancel()  # nothing in a rehearsal waits
        fault = Unavailable(f"plan_tasks can't predict what {task.method.name} waits for.")
    elif (failure := outcome[0]) is not None and isinstance(failure.value, Exception):
        fault = fault_of(failure.value, task.method.name)
    job.release()
    planned.inventory.rehearse(job.take_facts())
    return {
        "task": place,
        "ok": fault is None,
        "code": 0 if fault is None else fault.faultCode,
        "error": "" if fault is None else fault.faultString,
        "node": nodes.asked,
    }


async def _run(inventory: Inventory, actor: int, task: PendingTask, job: _Rehearsal) -> None:
    job.effort.step()
    permissions.check_task(inventory, actor, task.method, task.target, task.claims)
    await task.method.function(job, *task.arguments)


def _ignore(value: object) -> None:
    pass
