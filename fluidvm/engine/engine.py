"""The engine runs execution contexts, each as one chain of Deferreds. They are durable from the commit on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm.auth import permissions
from fluidvm.auth.audit import AuditLog, Line
from fluidvm.auth.sessions import PendingTask, Session
from fluidvm.engine.claims import Claims, Holding, Key
from fluidvm.engine.context import Context, Task
from fluidvm.engine.errors import fault_of
from fluidvm.engine.job import Job, Resources
from fluidvm.engine.progress import Progress
from fluidvm.engine.slots import Slots
from fluidvm.engine.waiters import Waiters
from fluidvm.inventory.inventory import Write, missing
from fluidvm.inventory.ledger import of_user
from fluidvm.model.declare import METHODS, AfterCrash
from fluidvm.model.faults import ApiFault, Conflict, Unavailable, Unsupported
from fluidvm.model.objects import User
from fluidvm.model.xmlvalue import render
from fluidvm.store import contexts as stored
from fluidvm.store.audit import add as write_audit
from fluidvm.store.contexts import StoredContext, StoredTask
from fluidvm.store.database import OutcomeUnknown
from fluidvm.store.objects import Change, Mention

Outcome = tuple[int, ApiFault | None, Any]
"""A task's index, its fault (C{None}: it succeeded), and its result."""
REMEMBERED = 1000
"""Maximum number of complete contexts in memory; older ones are read from the store."""
CLEANING = 3.0
"""Seconds that a task has to clean up when it is cancelled because the server stops."""
RETRY = 1.0
"""Seconds until the server tries again to store an outcome."""


class Engine:
    """
    Runs the execution contexts.

    @param resources: what tasks need.
    @param tasks_per_node: maximum number of tasks that use one compute node at the same time.
    @param audit: gets a line for each commit and each outcome.
    """

    _log = Logger()

    def __init__(self, resources: Resources, tasks_per_node: int, audit: AuditLog) -> None:
        self.claims = Claims()
        self._audit = audit
        self._resources = resources
        self._inventory = resources.inventory
        self._slots = Slots(tasks_per_node)
        self._waiters = Waiters(resources.clock)
        self._contexts: dict[int, Context] = {}
        self._complete: OrderedDict[int, None] = OrderedDict()
        self._chains: dict[int, Deferred[None]] = {}
        self._promised: dict[Key, int] = {}
        self._stopping = False

    def load(self, connection: Connection) -> None:
        """Load the unfinished contexts. Blocks: only for use before the reactor runs."""
        with connection.begin():
            for row in stored.load_unfinished(connection):
                self._adopt(Context(row))
                first = next((task for task in self._contexts[row.id].tasks if task.row.finished is None), None)
                if first is not None:
                    first.progress = max(1, first.progress)  # clients may have seen it running
                for place, task in enumerate(row.tasks):
                    reserved = task.memo.get("reserved")
                    if reserved is not None:
                        owner, asked = reserved
                        self._inventory.ledger.reserve((row.id, place), of_user(owner), asked)

    def start(self) -> None:
        """Continue the loaded contexts, interrupted tasks first, so that no other task sees what they left undone."""

        def fresh(context: Context) -> bool:
            first = next((task for task in context.tasks if task.row.finished is None), None)
            return first is None or not self._begun(first)

        for context in sorted(self._contexts.values(), key=fresh):
            self._chain(context)

    async def stop(self, patience: float) -> None:
        """
        Start no further tasks, wait for the running ones, and cancel those that take too long. The store has their progress.

        @param patience: seconds to wait before tasks are cancelled.
        """
        self._stopping = True
        self._waiters.wake_all()
        for context in self._contexts.values():
            for task in context.tasks:
                if task.holding is not None and task.holding.waiting is not None:
                    task.holding.waiting.cancel()
        self._slots.close()
        chains = list(self._chains.values())
        # Twice: cancelled tasks can clean up first, but not for an unlimited time.
        impatience = [self._resources.clock.callLater(after, _cut_off, chains) for after in (patience, patience + CLEANING)]
        for chain in chains:
            await chain
        for cutting in impatience:
            if cutting.active():
                cutting.cancel()

    # committing and reading

    async def commit(self, session: Session, pending: Sequence[PendingTask], on_error: str, address: str) -> int:
        """
        Store tasks as a new context, and start it.

        @param session: the session that commits.
        @param address: the client's address, for the audit log.
        @return: the context's number.
        @raise OutcomeUnknown: the store became unavailable during the commit; if it turns out that the context was stored,
            it starts then.
        @raise Unavailable: the store failed, or the server is stopping; nothing is committed.
        """
        if self._stopping:
            raise Unavailable("The server is stopping: commit again when it is back.")
        owner = session.user
        now = self._resources.wall_clock()
        rows = [
            StoredTask(
                method=task.method.name,
                target_type=task.method.target,
                target=task.target,
                arguments=list(task.arguments),
                claims=list(task.claims),
                started=None,
                finished=None,
                code=0,
                error="",
                result="",
                memo={},
            )
            for task in pending
        ]
        id = self._inventory.next_id("execution_context")
        context = Context(StoredContext(id, owner, on_error, now, None, None if rows else now, rows), session)
        line = self._audit.line(
            "commit",
            user=owner,
            name=self._name(owner),
            address=address,
            method="commit_tasks",
            execution_context=id,
            arguments=f"{len(rows)} tasks",
        )
        calls = self._audit.take()
        also: list[Write] = [(stored.add, (context.row,)), (write_audit, ([*calls, line],))]
        # Promised before it is durable, because calls made in the meantime can already name the objects.
        self._promise(context)
        try:
            await self._inventory.commit([Mention("execution_context", id, "created", owner)], also)
        except OutcomeUnknown as unknown:
            unknown.outcome.addCallbacks(self._kept, self._not_kept, (context,), {}, (context, calls))
            raise
        except BaseException:
            self._audit.put_back(calls)
            self._break_promises(context)
            raise
        self._kept(None, context)
        return id

    def _kept(self, result: object, context: Context) -> None:
        self._adopt(context)
        if not self._stopping:
            self._chain(context)

    def _not_kept(self, failure: Failure, context: Context, calls: list[Line]) -> Failure:
        self._audit.put_back(calls)
        self._break_promises(context)
        return failure

    async def find(self, id: int, viewer: User) -> Context:
        """
        Return a context.

        @raise NotFound: the context doesn't exist, or the user is not allowed to see it.
        """
        context = self._contexts.get(id)
        if context is None:
            row = await self._inventory.read(stored.load_one, id)
            context = self._contexts.get(id) or (None if row is None else Context(row))
        if context is None or not (permissions.reads_all(viewer) or context.row.owner == viewer.id):
            raise missing("execution_context", id)
        return context

    async def page(self, viewer: User, before: int | None, limit: int) -> list[Context]:
        """Return the contexts that a user is allowed to see, newest first: at most C{limit}, with ids below C{before}."""
        owner = None if permissions.reads_all(viewer) else viewer.id
        rows = await self._inventory.read(stored.load_page, owner, before, limit)
        return [self._contexts.get(row.id) or Context(row) for row in rows]

    async def wait(self, context: Context, seconds: float) -> bool:
        """Wait until all tasks of a context are complete, for at most C{seconds}. @return: whether they are."""
        if not context.complete and not self._stopping and seconds > 0:
            await self._waiters.wait(context.row.id, seconds)
        return context.complete

    def promised_to(self, key: Key) -> int | None:
        """Return the user for whom a committed task will create an object; C{None} if no task will."""
        return self._promised.get(key)

    async def cancel(self, context: Context) -> int:
        """
        Cancel the tasks that haven't ended: waiting tasks at once, a running one if its current operation can be cancelled.

        @return: the number of cancelled tasks.
        """
        waiting = [place for place, task in enumerate(context.tasks) if not task.ending and not self._begun(task)]
        under_way = [task.job for task in context.tasks if not task.ending and task.job is not None]
        cancelled = len(waiting) + sum(job.cancel() for job in under_way)
        if waiting:
            await self._end(context, [(place, Conflict("cancelled"), "") for place in waiting], [])
            for place in waiting:
                holding = context.tasks[place].holding
                if holding is not None and holding.waiting is not None:
                    holding.waiting.cancel()
        return cancelled

    def _begun(self, task: Task) -> bool:
        """Whether a task has begun, perhaps before the server restarted, so that it must be completed or undone."""
        made = _creates(task) and self._inventory.knows(task.row.target_type, task.row.target)
        return task.job is not None or task.row.started is not None or made or bool(task.row.memo)

    async def forget(self, before: float) -> int:
        """
        Delete the contexts that were completed before a point in time.

        @param before: seconds since the epoch.
        @return: the number of deleted contexts.
        """
        dropped = 0
        while True:
            gone = await self._inventory.read(stored.old, before)
            if not gone:
                return dropped
            mentions = [Mention("execution_context", id, "deleted", owner) for id, owner in gone]
            await self._inventory.commit(mentions, [(stored.drop, ([id for id, _ in gone],))])
            for id, _ in gone:
                self._contexts.pop(id, None)
                self._complete.pop(id, None)
            dropped += len(gone)

    # running

    def _promise(self, context: Context) -> None:
        for task in context.tasks:
            if task.row.finished is None and _creates(task):
                self._promised[task.row.target_type, task.row.target] = context.row.owner

    def _break_promises(self, context: Context) -> None:
        for task in context.tasks:
            self._promised.pop((task.row.target_type, task.row.target), None)

    def _adopt(self, context: Context) -> None:
        self._contexts[context.row.id] = context
        self._promise(context)

    def _chain(self, context: Context) -> None:
        chain = Deferred.fromCoroutine(self._run(context))
        self._chains[context.row.id] = chain
        chain.addErrback(self._broken, context)
        chain.addBoth(self._unchain, context)

    def _unchain(self, result: None, context: Context) -> None:
        self._chains.pop(context.row.id, None)

    def _broken(self, failure: Failure, context: Context) -> None:
        if not (self._stopping and failure.check(CancelledError)):
            self._log.failure("Execution context {id} stopped", failure, id=context.row.id)

    async def _run(self, context: Context) -> None:
        failed = 0  # only earlier tasks count: a client may have cancelled later ones
        for place, task in enumerate(context.tasks):
            if self._stopping:
                return
            if not task.ending:
                if failed and context.row.on_error == "stop":
                    await self._end(context, [(place, Conflict(f"skipped: task {failed} failed"), "")], [])
                else:
                    await self._execute(context, place, task)
            if task.row.code and not failed:
                failed = place + 1
        self._retire(context)

    async def _execute(self, context: Context, place: int, task: Task) -> None:
        method = METHODS.get(task.row.method)
        if method is None:  # it was committed by another version of the server
            unknown = Unsupported(f"This server has no method {task.row.method}: check whether the task took effect.")
            await self._end(context, [(place, unknown, "")], [])
            return
        # The objects that the task can change: those it names or holds, and the disks that its VMs have by then.
        holding = task.holding = Holding(self.claims, lambda: self._keys(task))
        job: Job | None = None
        try:
            try:
                await holding.take()
            except CancelledError:
                return  # a client has cancelled and so ended it, or the server stops
            if task.ending:
                return
            if method.after_crash is AfterCrash.REPORT and task.row.started is not None:
                interrupted = Unavailable(f"The server was interrupted during {method.name}: check whether it took effect.")
                await self._end(context, [(place, interrupted, "")], [])
                return
            begun = self._begun(task)
            job = task.job = self._job(context, place, task, holding)
            await self._begin(context, place, task, method.after_crash)
            fault: ApiFault | None = None
            result = None
            try:
                if not begun:
                    claims = [(type_name, id) for type_name, id in task.row.claims]
                    permissions.check_task(self._inventory, context.row.owner, method, task.row.target, claims)
                result = await method.function(job, *task.row.arguments)
                if result is not None:
                    render(result)  # a result that can't be rendered isn't stored: it would break lists
            except CancelledError:
                raise
            except Exception as error:
                fault, result = fault_of(error, method.name), None
            await self._end(context, [(place, fault, "" if result is None else result)], job.take_facts())
        finally:
            task.job = task.holding = None
            if job is not None:
                job.release()
            holding.release()

    def _keys(self, task: Task) -> set[Key]:
        named = {(type_name, id) for type_name, id in (*task.row.claims, *task.row.memo.get("holds", ()))}
        disks = {("disk", disk.id) for name, id in named if name == "vm" for disk in self._inventory.disks_of(id)}
        return named | disks

    async def _begin(self, context: Context, place: int, task: Task, after_crash: AfterCrash) -> None:
        now = self._resources.wall_clock()
        if task.row.started is None:
            task.row.started = now
        if context.row.started is None:
            context.row.started = now
        if after_crash is AfterCrash.REPORT:
            # After a crash, recovery must know whether the task had begun.
            started = {"started": task.row.started}
            await self._insist(context, [], [(stored.save_task, (context.row.id, place, started))])

    def _job(self, context: Context, place: int, task: Task, holding: Holding) -> Job:
        def save_memo(memo: dict[str, Any]) -> Write:
            return stored.save_task, (context.row.id, place, {"memo": memo})

        telling = Progress(self._inventory, self._resources.clock, context.row.id, place, task)

        def status(words: str) -> None:
            context.status = words

        task.progress = max(1, task.progress)
        return Job(
            self._resources,
            task.row.target,
            context.row.owner,
            task.row.memo,
            save_memo,
            telling.tell,
            status,
            self._slots,
            (context.row.id, place),
            holding,
            context.session,
        )

    async def _end(self, context: Context, outcomes: Sequence[Outcome], facts: list[Change]) -> None:
        """Store tasks' outcomes and recorded changes in one transaction; then make them visible."""
        for place, _, _ in outcomes:
            context.tasks[place].ending = True
        # One at a time: the call that ends a context's last task must see that the others have ended.
        await context.lock.acquire()
        try:
            try:
                await self._store_end(context, outcomes, facts)
            except CancelledError:
                raise
            except Exception as error:
                # The changes conflict with what has been stored meanwhile, such as a name that is now in use, or can't be
                # stored at all. The context continues in both cases.
                refused = fault_of(error, "storing an outcome")
                await self._store_end(context, [(place, refused, "") for place, _, _ in outcomes], [])
        finally:
            context.lock.release()

    async def _store_end(self, context: Context, outcomes: Sequence[Outcome], facts: list[Change]) -> None:
        now = self._resources.wall_clock()
        ends: dict[int, dict[str, Any]] = {}
        for place, fault, result in outcomes:
            ends[place] = {
                "started": context.tasks[place].row.started,
                "finished": now,
                "code": 0 if fault is None else fault.faultCode,
                "error": "" if fault is None else fault.faultString,
                "result": result,
            }
            if context.tasks[place].row.memo:
                ends[place]["memo"] = {}
        last = all(place in ends or task.row.finished is not None for place, task in enumerate(context.tasks))
        also: list[Write] = [(stored.save_task, (context.row.id, place, values)) for place, values in ends.items()]
        times = {"started": context.row.started, "finished": now if last else None}
        if last or not context.begun:
            also.append((stored.save_context, (context.row.id, times)))
        also.append((write_audit, ([self._outcome(context, place, values) for place, values in ends.items()],)))
        mention = Mention("execution_context", context.row.id, "updated", context.row.owner)
        await self._insist(context, [*facts, mention], also)
        for place, values in ends.items():
            task = context.tasks[place]
            for name, value in values.items():
                setattr(task.row, name, value)
            task.progress = 100
            self._inventory.ledger.release((context.row.id, place))
            self._promised.pop((task.row.target_type, task.row.target), None)
        context.status = ""
        context.begun = True
        if last:
            context.row.finished = now
            self._waiters.wake(context.row.id)

    def _outcome(self, context: Context, place: int, values: dict[str, Any]) -> Line:
        task = context.tasks[place].row
        return self._audit.line(
            "outcome",
            user=context.row.owner,
            name=self._name(context.row.owner),
            method=task.method,
            target_type=task.target_type,
            target=task.target,
            execution_context=context.row.id,
            task=place + 1,
            code=values["code"],
            error=values["error"],
        )

    def _name(self, user: int) -> str:
        found = self._inventory.find(User, user)
        return "" if found is None else found.name

    async def _insist(self, context: Context, changes: list[Change], also: list[Write]) -> None:
        while True:
            try:
                await self._inventory.settle(changes, also)
                return
            except Unavailable as error:
                # The task is done; its outcome must not be lost because the store is unavailable for a moment.
                context.status = f"waiting for the store: {error}"
                self._log.error("Execution context {id}: {error}", id=context.row.id, error=str(error))
            await deferLater(self._resources.clock, RETRY, lambda: None)

    def _retire(self, context: Context) -> None:
        context.session = None
        self._complete[context.row.id] = None
        if len(self._complete) > REMEMBERED:
            oldest, _ = self._complete.popitem(last=False)
            self._contexts.pop(oldest, None)


def _creates(task: Task) -> bool:
    method = METHODS.get(task.row.method)
    return method is not None and method.creates


def _cut_off(chains: Sequence[Deferred[None]]) -> None:
    for chain in chains:
        chain.cancel()
