"""Uploads in the store: whose, how large, and which image is being made of each."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from fluidvm.store.schema import uploads


class Upload(NamedTuple):
    """
    What was uploaded, or is to be.

    @ivar user: the id of the user whose it is.
    @ivar size: bytes that count for its user: those that are there, or that are expected.
    @ivar touched: when bytes came last, in seconds since the epoch.
    @ivar image: the id of the image that is being made of it; C{None}: it waits for one.
    """

    user: int
    name: str
    size: int
    touched: float
    image: int | None = None


def load(connection: Connection) -> list[Upload]:
    """Read all of them."""
    columns = (uploads.c.user, uploads.c.name, uploads.c.size, uploads.c.touched, uploads.c.image)
    return [Upload(*row) for row in connection.execute(select(*columns))]


def save(connection: Connection, upload: Upload) -> None:
    """Store one, in place of what was stored of it."""
    values = upload._asdict()
    if not connection.execute(update(uploads).where(_this(upload.user, upload.name)).values(values)).rowcount:
        connection.execute(insert(uploads), values)


def drop(connection: Connection, user: int, name: str) -> None:
    """Forget one. A repetition does nothing."""
    connection.execute(delete(uploads).where(_this(user, name)))


def _this(user: int, name: str) -> ColumnElement[bool]:
    return and_(uploads.c.user == user, uploads.c.name == name)
