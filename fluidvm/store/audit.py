"""The audit log in the store. Lines are added, read, and deleted when old, but never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from fluidvm.store.end_of_transaction import insert_at_end, insert_now
from fluidvm.store.schema import audit

_ADD = insert(audit)


def add(connection: Connection, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines at the end of the transaction."""
    insert_at_end(connection, _ADD, lines)


def page(
    connection: Connection, equal: Mapping[str, Any], since: float | None, until: float | None, after: int, limit: int
) -> list[dict[str, Any]]:
    """
    Read lines in order.

    @param equal: the values that columns must have.
    @param since: seconds since the epoch; C{None}: from the first line.
    @param until: seconds since the epoch, exclusive; C{None}: to the last line.
    @param after: only lines with a higher id.
    """
    insert_now(connection)  # include lines of the same transaction
    wanted = select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(limit)
    for name, value in equal.items():
        wanted = wanted.where(audit.c[name] == value)
    if since is not None:
        wanted = wanted.where(audit.c.time >= since)
    if until is not None:
        wanted = wanted.where(audit.c.time < until)
    return [dict(row) for row in connection.execute(wanted).mappings()]


def drop(connection: Connection, before: float, most: int = 5000) -> int:
    """Delete up to C{most} lines that were written before a point in time. Returns their number."""
    old = select(audit.c.id).where(audit.c.time < before).limit(most)
    return connection.execute(delete(audit).where(audit.c.id.in_(old))).rowcount
