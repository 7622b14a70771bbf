"""
One row that identifies the database, the server that writes to it, and its last transaction.

A server begins a new term when it starts. Each transaction that writes increments the number in the row. So the outcome of a
transaction can be looked up if its confirmation was lost. And a server can't write any more after another one has taken over
the database.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import Connection, insert, select, update

from fluidvm.store.schema import standing


class Standing(NamedTuple):
    """
    The row.

    @ivar identity: the unique id of the database, which never changes.
    @ivar term: the term of the server that started last.
    @ivar last: the number of that server's last transaction.
    """

    identity: str
    term: str
    last: int


def read(connection: Connection) -> Standing | None:
    """Read the row; C{None} if no server has used the database yet."""
    found = connection.execute(select(standing.c.identity, standing.c.term, standing.c.last)).first()
    return None if found is None else Standing(*found)


def begin(connection: Connection) -> Standing:
    """Begin a term. From now on no other server can commit."""
    before, term = read(connection), uuid4().hex
    if before is None:
        now = Standing(uuid4().hex, term, 0)
        connection.execute(insert(standing).values(id=1, **now._asdict()))
        return now
    connection.execute(update(standing).values(term=term, last=0))
    return before._replace(term=term, last=0)


# Plain text: every transaction runs one of them, and SQLAlchemy would take longer than the database. PostgreSQL assigns an
# id to a transaction when it writes something.
_MOVE = {
    "sqlite": "UPDATE standing SET last = ? WHERE term = ?",
    "postgresql": "UPDATE standing SET last = %s WHERE term = %s AND pg_current_xact_id_if_assigned() IS NOT NULL",
}


def move(connection: Connection, term: str, number: int) -> bool:
    """
    Number the transaction, at its end.

    @return: false if another server has begun a term or, on PostgreSQL, if nothing was written.
    """
    return bool(connection.exec_driver_sql(_MOVE[connection.dialect.name], (number, term)).rowcount)
