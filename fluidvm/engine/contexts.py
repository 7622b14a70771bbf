"""Execution contexts: one Deferred chain each, durable from commit on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from fluidvm.declare import METHODS, AfterCrash
from fluidvm.engine.claims import Claims, Key
from fluidvm.engine.job import Job, Resources
from fluidvm.engine.outcome import fault_of
from fluidvm.faults import ApiFault, Conflict, Unavailable
from fluidvm.inventory import Write, missing
from fluidvm.objects import Fields, User
from fluidvm.sessions import PendingTask
from fluidvm.store import contexts as stored
from fluidvm.store.contexts import StoredContext, StoredTask
from fluidvm.store.objects import Change, Mention, save_counters
from fluidvm.xmlvalue import moment

REMEMBERED = 1000
"""How many complete contexts stay in memory; older ones are read from the store."""
RETRY = 1.0
"""Seconds until an outcome that the store didn't take is offered again."""


class Task:
    """A task of a context: its row, and what is known of it only while it runs."""

    __slots__ = ("progress", "row")

    def __init__(self, row: StoredTask) -> None:
        self.row = row
        self.progress = 0 if row.finished is None else 100


class Context:
    """An execution context in memory."""

    FIELDS: ClassVar[Fields] = {
        "id": int, "owner": int, "state": list, "progress": list, "status": str, "errors": list, "results": list,
        "on_error": str, "created": datetime, "started": datetime, "finished": datetime, "tasks": list,
    }  # fmt: skip

    def __init__(self, row: StoredContext) -> None:
        self.row = row
        self.tasks = [Task(task) for task in row.tasks]
        self.status = ""
        self.waiters: list[Deferred[None]] = []

    @property
    def complete(self) -> bool:
        """Whether all tasks have ended."""
        return self.row.finished is not None

    def states(self) -> list[int]:
        """Per task: 0 complete, 1 queued or executing."""
        return [int(task.row.finished is None) for task in self.tasks]

    def progress(self) -> list[int]:
        """Per task: 0 to 100."""
        return [task.progress for task in self.tasks]

    def errors(self) -> list[str]:
        """Per task: the words of its error, or nothing."""
        return [task.row.error for task in self.tasks]

    def results(self) -> list[Any]:
        """Per task: what it yielded, or nothing."""
        return [task.row.result for task in self.tasks]

    def wire(self) -> dict[str, Any]:
        """As C{get_execution_context} gives it."""
        row = self.row
        return {
            "id": row.id, "owner": row.owner, "state": self.states(), "progress": self.progress(), "status": self.status,
            "errors": self.errors(), "results": self.results(), "on_error": row.on_error,
            "created": moment(row.created), "started": _moment(row.started), "finished": _moment(row.finished),
            "tasks": [
                {
                    "method": task.row.method, "target_type": task.row.target_type, "target": task.row.target,
                    "code": task.row.code, "started": _moment(task.row.started), "finished": _moment(task.row.finished),
                }
                for task in self.tasks
            ],
        }  # fmt: skip


def _cancel(chains: Sequence[Deferred[None]]) -> None:
    for chain in chains:
        chain.cancel()


def _moment(value: float | None) -> Any:
    return None if value is None else moment(value)


class Engine:
    """
    Runs the execution contexts.

    @param resources: what tasks work with.
    """

    _log = Logger()

    def __init__(self, resources: Resources) -> None:
        self.claims = Claims()
        self._resources = resources
        self._inventory = resources.inventory
        self._contexts: dict[int, Context] = {}
        self._complete: OrderedDict[int, None] = OrderedDict()
        self._chains: dict[int, Deferred[None]] = {}
        self._promised: dict[Key, int] = {}
        self._stopping = False

    def load(self, connection: Connection) -> None:
        """Read the unfinished contexts. Blocks: called before the reactor runs."""
        with connection.begin():
            for row in stored.load_unfinished(connection):
                self._adopt(Context(row))

    def start(self) -> None:
        """Go on with the contexts that were loaded."""
        for context in list(self._contexts.values()):
            self._chain(context)

    async def stop(self, patience: float) -> None:
        """
        Begin no further task, wait for those under way, and cut off what takes longer; the tables know how far each came.

        @param patience: seconds.
        """
        self._stopping = True
        for context in self._contexts.values():
            self._wake(context)
        chains = list(self._chains.values())
        # A chain that waits for another's claim is let go by it or cut off with it.
        impatience = self._resources.clock.callLater(patience, _cancel, chains)
        for chain in chains:
            await chain
        if impatience.active():
            impatience.cancel()

    # committing and reading

    async def commit(self, owner: int, pending: Sequence[PendingTask], on_error: str) -> int:
        """
        Make tasks durable as a new context and start it.

        @param owner: the id of the user who commits.
        @return: the context's number.
        @raise Unavailable: the store failed, or the server is stopping; nothing is committed.
        """
        if self._stopping:
            raise Unavailable("The server is stopping: commit again when it is back.")
        now = self._resources.wall_clock()
        rows = [
            StoredTask(
                method=task.method.name, target_type=task.method.target, target=task.target,
                arguments=list(task.arguments), claims=list(task.claims), started=None, finished=None, code=0, error="",
                result="", memo={},
            )
            for task in pending
        ]  # fmt: skip
        id = self._inventory.next_id("execution_context")
        context = Context(StoredContext(id, owner, on_error, now, None, None if rows else now, rows))
        also: list[Write] = [(stored.add, (context.row,)), (save_counters, (self._inventory.last_ids(),))]
        await self._inventory.commit([Mention("execution_context", id, "created", owner)], also)
        self._adopt(context)
        self._chain(context)
        return id

    async def find(self, id: int, viewer: User) -> Context:
        """
        Give a context.

        @raise NotFound: there is none that this user may see.
        """
        context = self._contexts.get(id)
        if context is None:
            (row,) = await self._inventory.commit([], [(stored.load_one, (id,))])
            context = None if row is None else Context(row)
        if context is None or (viewer.role == "user" and context.row.owner != viewer.id):
            raise missing("execution_context", id)
        return context

    async def page(self, viewer: User, before: int | None, limit: int) -> list[Context]:
        """Give the contexts that a user may see, newest first: at most C{limit}, from below the id C{before}."""
        owner = viewer.id if viewer.role == "user" else None
        (rows,) = await self._inventory.commit([], [(stored.load_page, (owner, before, limit))])
        return [self._contexts.get(row.id) or Context(row) for row in rows]

    def wait(self, context: Context) -> Deferred[None]:
        """Fires when all tasks of a context are complete, or when the server stops."""
        waiter: Deferred[None] = Deferred(context.waiters.remove)
        if context.complete or self._stopping:
            waiter.callback(None)
        else:
            context.waiters.append(waiter)
        return waiter

    def promised_to(self, key: Key) -> int | None:
        """Tell which user a committed task will make an object for; C{None}: no task will."""
        return self._promised.get(key)

    # running

    def _adopt(self, context: Context) -> None:
        self._contexts[context.row.id] = context
        for task in context.tasks:
            if task.row.finished is None and METHODS[task.row.method].creates:
                self._promised[task.row.target_type, task.row.target] = context.row.owner

    def _chain(self, context: Context) -> None:
        chain = Deferred.fromCoroutine(self._run(context))
        self._chains[context.row.id] = chain
        chain.addErrback(self._broken, context)
        chain.addBoth(self._unchain, context)

    def _unchain(self, result: None, context: Context) -> None:
        self._chains.pop(context.row.id, None)

    def _broken(self, failure: Any, context: Context) -> None:
        if not (self._stopping and failure.check(CancelledError)):
            self._log.failure("Execution context {id} stopped", failure, id=context.row.id)

    async def _run(self, context: Context) -> None:
        failed = next((place + 1 for place, task in enumerate(context.tasks) if task.row.code), 0)
        for place, task in enumerate(context.tasks):
            if task.row.finished is not None:
                continue
            if self._stopping:
                return
            if failed and context.row.on_error == "stop":
                await self._finish(context, place, Conflict(f"skipped: task {failed} failed"), "", [])
            else:
                await self._execute(context, place, task)
            if task.row.code and not failed:
                failed = place + 1
        self._retire(context)

    async def _execute(self, context: Context, place: int, task: Task) -> None:
        method = METHODS[task.row.method]
        claim = await self.claims.take((type_name, id) for type_name, id in task.row.claims)
        try:
            if method.after_crash is AfterCrash.REPORT and task.row.started is not None:
                interrupted = Unavailable(f"The server was interrupted during {method.name}: check what came of it.")
                await self._finish(context, place, interrupted, "", [])
                return
            await self._begin(context, place, task, method.after_crash)
            job = self._job(context, place, task)
            fault: ApiFault | None = None
            result = None
            try:
                result = await method.function(job, *task.row.arguments)
            except CancelledError:
                raise
            except Exception as error:
                fault = fault_of(error, method.name)
            await self._finish(context, place, fault, "" if result is None else result, job.take_facts())
        finally:
            self.claims.release(claim)

    async def _begin(self, context: Context, place: int, task: Task, after_crash: AfterCrash) -> None:
        now = self._resources.wall_clock()
        if task.row.started is None:
            task.row.started = now
        if context.row.started is None:
            context.row.started = now
        if after_crash is not AfterCrash.RUN_AGAIN:
            # Recovery must be able to tell a task that had begun from one that hadn't.
            await self._inventory.commit([], [(stored.save_task, (context.row.id, place, {"started": task.row.started}))])

    def _job(self, context: Context, place: int, task: Task) -> Job:
        def save_memo(memo: dict[str, Any]) -> Write:
            return stored.save_task, (context.row.id, place, {"memo": memo})

        def progress(percentage: int) -> None:
            if task.row.finished is None:
                task.progress = max(task.progress, min(99, percentage))

        def status(words: str) -> None:
            context.status = words

        progress(1)
        return Job(self._resources, task.row.target, context.row.owner, task.row.memo, save_memo, progress, status)

    async def _finish(self, context: Context, place: int, fault: ApiFault | None, result: Any, facts: list[Change]) -> None:
        task = context.tasks[place]
        row, now = task.row, self._resources.wall_clock()
        outcome = {
            "started": row.started, "finished": now, "code": 0 if fault is None else fault.faultCode,
            "error": "" if fault is None else fault.faultString, "result": result, "memo": {},
        }  # fmt: skip
        also: list[Write] = [(stored.save_task, (context.row.id, place, outcome))]
        last = place == len(context.tasks) - 1
        if last:
            ended = {"started": context.row.started, "finished": now}
            also.append((stored.save_context, (context.row.id, ended)))
        elif place == 0:
            also.append((stored.save_context, (context.row.id, {"started": context.row.started})))
        mention = Mention("execution_context", context.row.id, "updated", context.row.owner)
        await self._store_outcome(context, [*facts, mention], also)
        for name, value in outcome.items():
            setattr(row, name, value)
        task.progress = 100
        context.status = ""
        self._promised.pop((row.target_type, row.target), None)
        if last:
            context.row.finished = now
            self._wake(context)

    async def _store_outcome(self, context: Context, changes: list[Change], also: list[Write]) -> None:
        while True:
            try:
                await self._inventory.commit(changes, also)
                return
            except Unavailable as error:
                # The work is done: forgetting it because the store hiccups would lose it.
                context.status = f"waiting for the store: {error}"
                self._log.error("Execution context {id}: {error}", id=context.row.id, error=str(error))
            await deferLater(self._resources.clock, RETRY, lambda: None)

    def _wake(self, context: Context) -> None:
        waiters, context.waiters = context.waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _retire(self, context: Context) -> None:
        self._complete[context.row.id] = None
        if len(self._complete) > REMEMBERED:
            oldest, _ = self._complete.popitem(last=False)
            del self._contexts[oldest]
