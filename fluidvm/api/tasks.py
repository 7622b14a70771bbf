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
        fields={
            "on_error": Choice("whether later tasks run after a failed one; default: continue", choices=("continue", "stop"))
        },
    ),
]
ContextFilter = Annotated[dict[str, Any], filter_of(Context.FIELDS)]
LONGEST_WAIT = 25.0
PAGE = 200
Wait = Annotated[float, Double("how long to wait", unit="s", low=0, high=LONGEST_WAIT)]
SLICE = 0.02
"""Seconds that one list of contexts may use before the reactor gets a turn."""


@query("int")
async def commit_tasks(call: Call, options: CommitOptions = {}) -> int:  # noqa: B006
    """
    Store all pending tasks as a new execution context, and start it. Returns its number (EC).

    The execution context survives a crash of the server. If the store becomes unavailable during the call, the call fails
    with fault 503. When the store is back, the tasks are either in an execution context or pending again.
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
    """List the session's pending tasks in order: structs of task (1 is the first), method, target_type and target."""
    return [
        {"task": place, "method": task.method.name, "target_type": task.method.target, "target": task.target}
        for place, task in enumerate(call.session.pending, 1)
    ]


@query("int")
def discard_tasks(call: Call) -> int:
    """Discard the session's pending tasks. Returns their number."""
    return len(call.session.take())


@query("array")
async def get_task_state(call: Call, ec: ContextId) -> list[int]:
    """Return the state of each task: 0 complete (successful or failed), 1 queued or executing."""
    return (await call.engine.find(ec, call.user)).states()


@query("array")
async def get_task_progress(call: Call, ec: ContextId) -> list[int]:
    """Return the progress of each task: 0 not started, 1 to 99 executing, 100 complete. It never decreases."""
    return (await call.engine.find(ec, call.user)).progress()


@query("string")
async def get_status(call: Call, ec: ContextId) -> str:
    """Return a text that says what an execution context is doing now. It can be empty."""
    return (await call.engine.find(ec, call.user)).status


@query("array")
async def get_errors(call: Call, ec: ContextId) -> list[str]:
    """Return the error of each task; an empty string means no error."""
    return (await call.engine.find(ec, call.user)).errors()


@query("array")
async def get_results(call: Call, ec: ContextId) -> list[Any]:
    """Return the result of each task; an empty string means that it has no result, or none yet."""
    return (await call.engine.find(ec, call.user)).results()


@query("struct")
async def get_execution_context(call: Call, ec: ContextId) -> dict[str, Any]:
    """Return everything about an execution context in one call."""
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
    """Wait until all tasks of an execution context are complete. Returns true then, or false after the timeout."""
    return await call.engine.wait(await call.engine.find(ec, call.user), timeout)


@query("int", roles=WORKERS, audited=True)
async def cancel_tasks(call: Call, ec: ContextId) -> int:
    """
    Cancel an execution context. Tasks that haven't started end with the error cancelled; so does the executing one, if what
    it does can be interrupted.

    Returns the number of cancelled tasks.
    """
    return await call.engine.cancel(await call.engine.find(ec, call.user))


@query("array")
async def plan_tasks(call: Call) -> list[dict[str, Any]]:
    """
    Rehearse the pending tasks: check them in order as if they ran, each after the effects of those before it.

    Returns structs of task (1 is the first), ok, code and error (0 and empty if the task would succeed), and node (the id of
    the compute node on which it would run). Nothing is changed. Errors that only the hypervisor can detect are not found. If
    the rehearsal takes too long, the remaining tasks have code 413.
    """
    return await call.services.rehearsals.rehearse(call.session)
