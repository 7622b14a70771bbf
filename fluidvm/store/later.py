"""Rows that are inserted at the end of a transaction, together with those of whatever is committed along with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Insert


def later(connection: Connection, statement: Insert, rows: Iterable[Mapping[str, Any]]) -> None:
    """
    Insert rows at the end of the transaction, together with those of whatever is committed along with it.

    For rows that nothing refers to and no constraint can refuse. Who begins a transaction ends it with L{write_later}.
    """
    connection.info.setdefault("later", {}).setdefault(statement, []).extend(rows)


def write_later(connection: Connection) -> None:
    """Insert what was to be inserted later."""
    for statement, rows in connection.info.pop("later", {}).items():
        if rows:
            connection.execute(statement, rows)


def forget_later(connection: Connection) -> None:
    """Drop what was to be inserted later: its transaction has failed."""
    connection.info.pop("later", None)
