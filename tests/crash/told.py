"""
The server's program, which tells on SIGUSR1 what every coroutine in it waits for, and who holds what.

    python tests/crash/told.py --nodaemon fluidvm ...

is C{twistd}, with that. The crash harness asks for it where something doesn't end. It is run as a file, not as a module: so
the server is the installed one, as with C{twistd}.
"""

from __future__ import annotations

import gc
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.scripts.twistd import run

from fluidvm.engine.claims import Claims
from fluidvm.engine.engine import Engine

BEGIN, END = "--- what waits for what", "--- that was it"


def told(log: str) -> str:
    """What was told last, out of all that the server has logged; empty: nothing was."""
    _, found, after = log.rpartition(BEGIN)
    return after.partition(END)[0] if found else ""


def lines() -> Iterator[str]:
    """What waits for what, now."""
    things = gc.get_objects()
    for engine in [thing for thing in things if isinstance(thing, Engine)]:
        for context in list(engine._contexts.values()):
            for place, task in enumerate(context.tasks):
                if task.row.finished is None:
                    row, waiting = task.row, task.holding is not None and task.holding.waiting is not None
                    state = "waits for its claim" if waiting else "runs" if task.job is not None else "is queued"
                    yield f"context {context.row.id} task {place + 1} {row.method} {row.target} {state}; memo {row.memo}"
    for claims in [thing for thing in things if isinstance(thing, Claims)]:
        for key, queue in claims._queues.items():
            yield f"{key}: {', '.join(f'{id(claim):x} lacks {claim.blocked}' for claim in queue)}"
    awaited = {id(getattr(thing, "cr_await", None)) for thing in things if isinstance(thing, types.CoroutineType)}
    for coroutine in [thing for thing in things if isinstance(thing, types.CoroutineType)]:
        if id(coroutine) not in awaited and coroutine.cr_frame is not None:
            yield " > ".join(_stack(coroutine))


def _stack(coroutine: Any) -> Iterator[str]:
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            return
        context = frame.f_locals.get("context")
        which = f" of context {context.row.id}" if hasattr(context, "row") else ""
        yield f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}{which}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _tell(number: int, frame: object) -> None:
    print(BEGIN, *lines(), END, sep="\n", file=sys.__stderr__, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    run()
