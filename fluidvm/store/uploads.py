"""The records of uploads in the store."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from fluidvm.store.schema import uploads


class Upload(NamedTuple):
    """
    An upload, complete or in progress.

    @ivar user: the id of its owner.
    @ivar size: bytes that count for its owner: those written, or those expected.
    @ivar touched: when bytes were received last, in seconds since the epoch.
    @ivar image: the id of the image that is being created from it; C{None} if there is none.
    """

    user: int
    name: str
    size: int
    touched: float
    image: int | None = None


def load(connection: Connection) -> list[Upload]:
    """Read all records."""
    columns = (uploads.c.user, uploads.c.name, uploads.c.size, uploads.c.touched, uploads.c.image)
    return [Upload(*row) for row in connection.execute(select(*columns))]


def save(connection: Connection, upload: Upload) -> None:
    """Store a record, and replace an earlier one."""
    values = upload._asdict()
    if not connection.execute(update(uploads).where(_this(upload.user, upload.name)).values(values)).rowcount:
        connection.execute(insert(uploads), values)


def drop(connection: Connection, user: int, name: str) -> None:
    """Delete a record. Can be repeated."""
    connection.execute(delete(uploads).where(_this(user, name)))


def _this(user: int, name: str) -> ColumnElement[bool]:
    return and_(uploads.c.user == user, uploads.c.name == name)
