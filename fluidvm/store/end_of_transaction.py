"""
Rows that are inserted at the end of a transaction, for speed.

A transaction includes many store functions. The rows that they add to the change log and to the audit log are inserted with
one statement per table, after the last function. That is much faster than one statement per function.
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
    At the end of the block, insert the rows that were passed to L{insert_at_end} in it. If the block fails, insert nothing.

    Code that begins a transaction calls the store functions in such a block.
    """
    info, rows = connection.info, _Rows()  # the info of a connection that was lost in the block is not accessible
    info[_KEY] = rows
    try:
        yield
        _insert(connection, rows)
    finally:
        info.pop(_KEY, None)


def insert_at_end(connection: Connection, statement: Insert, rows: Iterable[Mapping[str, Any]]) -> None:
    """
    Insert rows when the enclosing block of L{rows_at_end} ends.

    Only for rows that nothing refers to and that no constraint can refuse.
    """
    connection.info[_KEY].setdefault(statement, []).extend(rows)


def insert_now(connection: Connection) -> None:
    """Insert the waiting rows now, for a function that is about to read them."""
    _insert(connection, connection.info[_KEY])


def _insert(connection: Connection, rows: _Rows) -> None:
    wanted = list(rows.items())
    rows.clear()
    for statement, values in wanted:
        if values:
            connection.execute(statement, values)
