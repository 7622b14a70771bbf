"""Committing tasks and watching their execution contexts."""

from __future__ import annotations

from typing import Annotated, Any

from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from fluidvm.access.call import Call
from fluidvm.api.listing import keep, shown
from fluidvm.auth.sessions import PendingTask, Session
from fluidvm.engine.context import Context
from fluidvm.model.declare import WORKERS, query
from fluidvm.model.faults import Unavailable
from fluidvm.model.kinds import Choice, ContextId, Double, Struct, filter_of
from fluidvm.model.xmlvalue import INT_HIGH, Members, Pieces
from fluidvm.store.database import OutcomeUnknown

CommitOptions = Annotated[
    dict[str, Any],
    Struct(
        "how to run the tasks",
        fields={"on_error": Choice("what a failed task does to those after it", choices=("continue", "stop"))},
    ),
]
ContextFilter = Annotated[dict[str, Any], filter_of(Context.FIELDS)]
LONGEST_WAIT = 25.0
PAGE = 200
Wait = Annotated[float, Double("how long", unit="s", low=0, high=LONGEST_WAIT)]
SLICE = 0.02
"""Seconds that contexts are told of before others have a turn."""


@query("int")
async def commit_tasks(call: Call, options: CommitOptions = {}) -> int:  # noqa: B006
    """
    Move all pending tasks into a new execution context, durably, and start it. Returns its number (EC).

    If the store goes away in the middle, fault 503 says so: when it is back, the tasks are an execution context, or pending.
    """
    taken = call.session.take()
    try:
        return await call.engine.commit(call.session, taken, options.get("on_error", "continue"), call.address)
    except OutcomeUnknown as unknown:
        unknown.outcome.addErrback(_put_back, call.session, taken)
        raise Unavailable(
            "The store became unavailable during commit_tasks: when it is back, the tasks are either in an execution "
            "context (see list_execution_contexts) or pending again (see get_pending_tasks)."
        ) from None
    except BaseException:
        call.session.put_back(taken)
        raise


def _put_back(failure: Failure, session: Session, tasks: list[PendingTask]) -> Failure:
    session.put_back(tasks)
    return failure


@query("array")
def get_pending_tasks(call: Call) -> list[dict[str, Any]]:
    """List the session's uncommitted tasks in order: structs of task (1 is the first), method, target_type and target."""
    return [
        {"task": place, "method": task.method.name, "target_type": task.method.target, "target": task.target}
        for place, task in enumerate(call.session.pending, 1)
    ]


@query("int")
def discard_tasks(call: Call) -> int:
    """Drop the session's uncommitted tasks. Returns how many there were."""
    return len(call.session.take())


@query("array")
async def get_task_state(call: Call, ec: ContextId) -> list[int]:
    """Tell each task's state: 0 complete (well or badly), 1 queued or executing."""
    return (await call.engine.find(ec, call.user)).states()


@query("array")
async def get_task_progress(call: Call, ec: ContextId) -> list[int]:
    """Tell each task's progress: 0 not begun, 1 to 99 under way, 100 complete. It never goes down."""
    return (await call.engine.find(ec, call.user)).progress()


@query("string")
async def get_status(call: Call, ec: ContextId) -> str:
    """Tell in words what an execution context is doing now; empty if no task says."""
    return (await call.engine.find(ec, call.user)).status


@query("array")
async def get_errors(call: Call, ec: ContextId) -> list[str]:
    """Tell each task's error; an empty string: none."""
    return (await call.engine.find(ec, call.user)).errors()


@query("array")
async def get_results(call: Call, ec: ContextId) -> list[Any]:
    """Tell what each task yielded; an empty string: nothing, or nothing yet."""
    return (await call.engine.find(ec, call.user)).results()


@query("struct")
async def get_execution_context(call: Call, ec: ContextId) -> dict[str, Any]:
    """Tell all about an execution context in one call."""
    return (await call.engine.find(ec, call.user)).wire()


@query("array")
async def list_execution_contexts(call: Call, filter: ContextFilter = {}) -> Members:  # noqa: B006
    """List the execution contexts that the caller may see, newest first."""
    found, clock = Pieces(), call.services.resources.clock
    turn = clock.seconds()
    limit, before = filter.get("limit", INT_HIGH), filter.get("after")
    while len(found.parts) < limit:
        page = await call.engine.page(call.user, before, PAGE)
        for context in page:
            wire = context.wire()
            if keep(wire, filter) and len(found.parts) < limit:
                found.parts.append(shown("execution context", wire, filter))
                found.count()
            if clock.seconds() - turn > SLICE:
                await deferLater(clock, 0, lambda: None)
                turn = clock.seconds()
        if len(page) < PAGE:
            break
        before = page[-1].row.id
    return Members(found.parts)


@query("boolean")
async def wait_for_tasks(call: Call, ec: ContextId, timeout: Wait) -> bool:
    """Answer as soon as all tasks of an execution context are complete (true), or after the time-out (false)."""
    return await call.engine.wait(await call.engine.find(ec, call.user), timeout)


@query("int", roles=WORKERS, audited=True)
async def cancel_tasks(call: Call, ec: ContextId) -> int:
    """
    Cancel an execution context: tasks not begun end with the error cancelled, one under way where what it does can be left.

    Returns how many were cancelled.
    """
    return await call.engine.cancel(await call.engine.find(ec, call.user))


@query("array")
async def plan_tasks(call: Call) -> list[dict[str, Any]]:
    """
    Try the pending tasks without doing them: the same checks, in order, each task seeing what those before it would do.

    Returns structs of task (1 is the first), ok, code and error (0 and empty: it would go well), and node, the id of the
    compute node that it would work on. Changes nothing; what the hypervisor alone can tell isn't known. Where trying them
    all would take too long, those that are left have code 413.
    """
    return await call.services.rehearsals.rehearse(call.session)
