"""
Which database this is, which server writes to it, and how far it has come: one row.

A server begins a term of its own when it starts. Each transaction that writes moves the row's number on by one, so that the
transaction's outcome can be looked up where its answer was lost, and so that nothing is written by a server that another one
has taken the database over from.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import Connection, insert, select, update

from fluidvm.store.schema import standing


class Standing(NamedTuple):
    """
    The row.

    @ivar identity: the database's, for good.
    @ivar term: of the server that began last.
    @ivar last: the number of its last transaction.
    """

    identity: str
    term: str
    last: int


def read(connection: Connection) -> Standing | None:
    """Read the row; C{None}: no server has begun yet."""
    found = connection.execute(select(standing.c.identity, standing.c.term, standing.c.last)).first()
    return None if found is None else Standing(*found)


def begin(connection: Connection) -> Standing:
    """Begin a term: from now on no other server's transaction is kept."""
    before, term = read(connection), uuid4().hex
    if before is None:
        now = Standing(uuid4().hex, term, 0)
        connection.execute(insert(standing).values(id=1, **now._asdict()))
        return now
    connection.execute(update(standing).values(term=term, last=0))
    return before._replace(term=term, last=0)


# As text: they are in every transaction, and SQLAlchemy takes longer over them than the database does. PostgreSQL has given
# a transaction an id if it has written something.
_MOVE = {
    "sqlite": "UPDATE standing SET last = ? WHERE term = ?",
    "postgresql": "UPDATE standing SET last = %s WHERE term = %s AND pg_current_xact_id_if_assigned() IS NOT NULL",
}


def move(connection: Connection, term: str, number: int) -> bool:
    """
    Give the transaction its number, at its end.

    @return: whether it was given; not if another server has begun a term, nor, on PostgreSQL, if nothing was written.
    """
    return bool(connection.exec_driver_sql(_MOVE[connection.dialect.name], (number, term)).rowcount)
