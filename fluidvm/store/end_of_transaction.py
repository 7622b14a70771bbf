"""
Rows that are inserted at the end of a transaction, for speed.

A transaction takes many functions along. The rows that they add to the change log and to the audit log go to each table in
one statement, after the last function: that costs much less than a statement per function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Insert

_KEY = "rows for the end of the transaction"
_Rows = dict[Insert, list[Mapping[str, Any]]]


@contextmanager
def rows_at_end(connection: Connection) -> Iterator[None]:
    """
    Insert at the end of the block what L{insert_at_end} was called with in it; nothing if the block fails.

    Whoever begins a transaction calls the store's functions in such a block.
    """
    info, rows = connection.info, _Rows()  # a connection that was lost in the block can't be asked for its info any more
    info[_KEY] = rows
    try:
        yield
        _insert(connection, rows)
    finally:
        info.pop(_KEY, None)


def insert_at_end(connection: Connection, statement: Insert, rows: Iterable[Mapping[str, Any]]) -> None:
    """
    Insert rows when the block of L{rows_at_end} ends that this is called in.

    For rows that nothing refers to and no constraint can refuse.
    """
    connection.info[_KEY].setdefault(statement, []).extend(rows)


def insert_now(connection: Connection) -> None:
    """Insert what was to be inserted at the end, for a function that is about to read it."""
    _insert(connection, connection.info[_KEY])


def _insert(connection: Connection, rows: _Rows) -> None:
    wanted = list(rows.items())
    rows.clear()
    for statement, values in wanted:
        if values:
            connection.execute(statement, values)
