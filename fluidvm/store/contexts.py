"""Execution contexts and their tasks in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Update, bindparam, delete, insert, select, update

from fluidvm.store.schema import contexts, tasks


@dataclass(slots=True)
class StoredTask:
    """A row of C{tasks}."""

    method: str
    target_type: str
    target: int
    arguments: list[Any]
    claims: list[tuple[str, int]]
    started: float | None
    finished: float | None
    code: int
    error: str
    result: Any
    memo: dict[str, Any]
    progress: int = 0


@dataclass(slots=True)
class StoredContext:
    """A row of C{contexts}, with its tasks in order."""

    id: int
    owner: int
    on_error: str
    created: float
    started: float | None
    finished: float | None
    tasks: list[StoredTask]


_TASK_COLUMNS = tuple(StoredTask.__slots__)


def add(connection: Connection, context: StoredContext) -> None:
    """Store a new context and its tasks."""
    connection.execute(insert(contexts), {column.name: getattr(context, column.name) for column in contexts.c})
    if context.tasks:
        rows = [
            {name: getattr(task, name) for name in _TASK_COLUMNS} | {"context": context.id, "position": position}
            for position, task in enumerate(context.tasks)
        ]
        connection.execute(insert(tasks), rows)


# Built once per set of columns: building a statement costs more than running it.
@cache
def _save_task(columns: tuple[str, ...]) -> Update:
    where = (tasks.c.context == bindparam("of_context")) & (tasks.c.position == bindparam("at_position"))
    return update(tasks).where(where).values({name: bindparam(name) for name in columns})


@cache
def _save_context(columns: tuple[str, ...]) -> Update:
    where = contexts.c.id == bindparam("of_context")
    return update(contexts).where(where).values({name: bindparam(name) for name in columns})


def save_task(connection: Connection, context: int, position: int, values: dict[str, Any]) -> None:
    """Store new values of a task's columns."""
    connection.execute(_save_task(tuple(values)), {**values, "of_context": context, "at_position": position})


def save_context(connection: Connection, context: int, values: dict[str, Any]) -> None:
    """Store new values of a context's columns."""
    connection.execute(_save_context(tuple(values)), {**values, "of_context": context})


def load_unfinished(connection: Connection) -> list[StoredContext]:
    """Read every incomplete context, oldest first."""
    return _with_tasks(
        connection, connection.execute(select(contexts).where(contexts.c.finished.is_(None)).order_by(contexts.c.id)).all()
    )


def load_one(connection: Connection, id: int) -> StoredContext | None:
    """Read one context; C{None} if it does not exist."""
    found = _with_tasks(connection, connection.execute(select(contexts).where(contexts.c.id == id)).all())
    return found[0] if found else None


def load_page(connection: Connection, owner: int | None, before: int | None, limit: int) -> list[StoredContext]:
    """
    Read contexts, newest first.

    @param owner: only this user's; C{None}: everyone's.
    @param before: only those with a lower id; C{None}: from the newest.
    """
    wanted = select(contexts).order_by(contexts.c.id.desc()).limit(limit)
    if owner is not None:
        wanted = wanted.where(contexts.c.owner == owner)
    if before is not None:
        wanted = wanted.where(contexts.c.id < before)
    return _with_tasks(connection, connection.execute(wanted).all())


def old(connection: Connection, before: float, most: int = 500) -> list[tuple[int, int]]:
    """Find up to C{most} contexts that were complete before a point in time: id and owner."""
    wanted = select(contexts.c.id, contexts.c.owner).where(contexts.c.finished < before).limit(most)
    return [(row.id, row.owner) for row in connection.execute(wanted)]


def drop(connection: Connection, ids: Sequence[int]) -> None:
    """Delete contexts and their tasks."""
    connection.execute(delete(tasks).where(tasks.c.context.in_(ids)))
    connection.execute(delete(contexts).where(contexts.c.id.in_(ids)))


def _with_tasks(connection: Connection, rows: Sequence[Row[Any]]) -> list[StoredContext]:
    found = {row.id: StoredContext(**row._mapping, tasks=[]) for row in rows}
    wanted = (
        select(tasks.c.context, *(tasks.c[name] for name in _TASK_COLUMNS))
        .where(tasks.c.context.in_(list(found)))
        .order_by(tasks.c.context, tasks.c.position)
    )
    for context, *values in connection.execute(wanted):
        found[context].tasks.append(StoredTask(*values))
    return list(found.values())
