"""The user admin, which the first start creates."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, func, select
from twisted.logger import Logger

from fluidvm.model.objects import User
from fluidvm.store import schema
from fluidvm.store.end_of_transaction import rows_at_end
from fluidvm.store.objects import Create, save_counters, write

_log = Logger()
VARIABLE = "FLUIDVM_ADMIN_PASSWORD"


class PasswordError(Exception):
    """The password of the user admin can't be read or written. The message is one sentence."""


def ensure_admin(connection: Connection, hash: Callable[[str], str], now: float, password: str, state: Path) -> None:
    """
    Create the user admin if there are no users yet.

    @param now: seconds since the epoch.
    @param password: empty: take it from C{FLUIDVM_ADMIN_PASSWORD}, or else generate a random one and write it to the
        file C{admin-password} (mode 0600) in the state directory.
    @raise PasswordError: the file can't be written.
    """
    given = os.environ.pop(VARIABLE, "")  # child processes must not inherit it
    with connection.begin(), rows_at_end(connection):
        if connection.execute(select(func.count()).select_from(schema.users)).scalar():
            return
        password = password or given or _invent(state / "admin-password")
        admin = User(id=1, name="admin", role="admin", enabled=True, full_name="", email="", created=now)
        write(connection, [(Create(admin, {"password_hash": hash(password)}), admin.id)])
        save_counters(connection, {"user": admin.id})


def read_password(path: Path) -> str:
    """Read a file that holds a password. @raise PasswordError: it can't be read, or is empty."""
    try:
        password = path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PasswordError(f"admin password file {path}: {getattr(error, 'strerror', error)}") from None
    if not password:
        raise PasswordError(f"admin password file {path} is empty")
    return password


def _invent(path: Path) -> str:
    password = secrets.token_urlsafe(18)
    try:
        # A start that failed before it stored the user may have left a file. It is useless, and its mode might not be 0600.
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PasswordError(f"admin password file {path}: {error.strerror}") from None
    _log.info("Created the user admin; its password is in {path}", path=str(path))
    return password
