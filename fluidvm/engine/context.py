"""An execution context in memory: its rows, and the state that exists only while it runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from twisted.internet.defer import DeferredLock

from fluidvm.auth.sessions import Session
from fluidvm.engine.claims import Holding
from fluidvm.engine.job import Job
from fluidvm.model.object_fields import Fields
from fluidvm.model.xmlvalue import moment
from fluidvm.store.contexts import StoredContext, StoredTask


class Task:
    """
    A task of a context.

    @ivar holding: the objects that it holds or waits for; C{None} before and after.
    @ivar job: its job; C{None} unless its body is running.
    @ivar ending: whether its outcome is decided, though perhaps not stored yet.
    """

    __slots__ = ("ending", "holding", "job", "progress", "row")

    def __init__(self, row: StoredTask) -> None:
        self.row = row
        self.holding: Holding | None = None
        self.job: Job | None = None
        self.ending = row.finished is not None
        self.progress = row.progress if row.finished is None else 100


class Context:
    """
    An execution context in memory.

    @ivar session: the session that committed it; C{None} if the context is complete or the server has restarted since.
    """

    FIELDS: ClassVar[Fields] = {
        "id": int,
        "version": int,
        "owner": int,
        "state": list,
        "progress": list,
        "status": str,
        "errors": list,
        "results": list,
        "on_error": str,
        "created": datetime,
        "started": datetime,
        "finished": datetime,
        "tasks": list,
    }

    def __init__(self, row: StoredContext, session: Session | None = None) -> None:
        self.row = row
        self.session = session
        self.tasks = [Task(task) for task in row.tasks]
        self.status = ""
        self.lock = DeferredLock()
        self.begun = row.started is not None

    @property
    def complete(self) -> bool:
        """Whether all tasks have ended."""
        return self.row.finished is not None

    @property
    def version(self) -> int:
        """
        The version, which increases with each change of a task.

        It need not be stored: a task's progress only increases, and it increases whenever anything else in the task changes.
        """
        return 1 + sum(self.progress())

    def states(self) -> list[int]:
        """Per task: 0 complete, 1 queued or executing."""
        return [int(task.row.finished is None) for task in self.tasks]

    def progress(self) -> list[int]:
        """Per task: 0 to 100."""
        return [task.progress for task in self.tasks]

    def errors(self) -> list[str]:
        """Per task: the text of its error; empty if it has none."""
        return [task.row.error for task in self.tasks]

    def results(self) -> list[Any]:
        """Per task: its result; empty if it has none."""
        return [task.row.result for task in self.tasks]

    def wire(self) -> dict[str, Any]:
        """The context as in the answer of C{get_execution_context}."""
        row = self.row
        return {
            "id": row.id,
            "version": self.version,
            "owner": row.owner,
            "state": self.states(),
            "progress": self.progress(),
            "status": self.status,
            "errors": self.errors(),
            "results": self.results(),
            "on_error": row.on_error,
            "created": moment(row.created),
            "started": _moment(row.started),
            "finished": _moment(row.finished),
            "tasks": [
                {
                    "method": task.row.method,
                    "target_type": task.row.target_type,
                    "target": task.row.target,
                    "code": task.row.code,
                    "started": _moment(task.row.started),
                    "finished": _moment(task.row.finished),
                }
                for task in self.tasks
            ],
        }


def _moment(value: float | None) -> datetime | None:
    return None if value is None else moment(value)
