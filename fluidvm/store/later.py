"""Rows that are inserted at the end of a transaction, together with those of other work in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Insert


def later(connection: Connection, statement: Insert, rows: Iterable[Mapping[str, Any]]) -> None:
    """
    Insert rows at the end of the transaction, together with those of other work in the same transaction.

    For rows that nothing refers to and that no constraint can reject. Whoever begins a transaction must call L{write_later}
    at its end.
    """
    connection.info.setdefault("later", {}).setdefault(statement, []).extend(rows)


def write_later(connection: Connection) -> None:
    """Insert the rows of L{later}."""
    for statement, rows in connection.info.pop("later", {}).items():
        if rows:
            connection.execute(statement, rows)


def forget_later(connection: Connection) -> None:
    """Discard the rows of L{later}: their transaction has failed."""
    connection.info.pop("later", None)
