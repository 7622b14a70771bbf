"""What the users' table holds beside the objects: password hashes and logins."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from fluidvm.store.schema import users


def password_hash(connection: Connection, name: str) -> str | None:
    """Read the hash of a user's password; C{None}: no such user."""
    return connection.execute(select(users.c.password_hash).where(users.c.name == name)).scalar()


def logged_in(connection: Connection, user: int, when: float) -> None:
    """Remember a login. Not a change that C{ping} tells: it would follow each authenticate."""
    connection.execute(update(users).where(users.c.id == user), {"last_login": when})
