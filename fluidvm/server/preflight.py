"""
The checks that run before the daemon forks. Each error ends the start with one line on the terminal.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from argon2.exceptions import HashingError
from sqlalchemy.exc import SQLAlchemyError

from fluidvm.auth.certificates import MappingError, read_mapping
from fluidvm.auth.passwords import Hasher
from fluidvm.images import belonging
from fluidvm.images.belonging import BelongingError
from fluidvm.server.admin import PasswordError, read_password
from fluidvm.server.options import Settings
from fluidvm.store import standing
from fluidvm.store.database import DatabaseError, connect, parse_url
from fluidvm.wire.listening import endpoint, try_to_bind
from fluidvm.wire.tls import TLSError, server_options


class StartError(Exception):
    """The server can't start. The message is one sentence."""


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    try:
        yield
    except (BelongingError, DatabaseError, MappingError, PasswordError, TLSError) as error:
        raise StartError(str(error)) from None


@_in_one_sentence()
def claim(lock: Lock, settings: Settings, uid: int | None = None, gid: int | None = None) -> None:
    """
    Create the directories of the state and of the images if they don't exist, and lock them and the database.

    @param lock: receives the locks. They are held until it is closed, also across a fork.
    @param uid: the user that the server will run as, if it is a different one (C{twistd --uid}); it will own the state.
    @param gid: the group, likewise.
    @raise StartError: they can't be created, or another server uses them.
    """
    _claim_directory(lock, settings.state, f"state directory {settings.state}", uid, gid)
    if settings.images.resolve() != settings.state.resolve():
        _claim_directory(lock, settings.images, f"images directory {settings.images}", uid, gid)
    lock.also(_claim_database(settings.database, uid, gid))


@_in_one_sentence()
def check_files(settings: Settings) -> None:
    """Check that the files named by options can be read. @raise StartError: one of them can't."""
    if settings.tls is not None:
        server_options(settings.tls)
    if settings.certificate_users is not None:
        read_mapping(settings.certificate_users)
    if settings.admin_password_file is not None:
        read_password(settings.admin_password_file)


def check_hashing(settings: Settings) -> None:
    """Check that passwords can be hashed with the options' parameters. @raise StartError: they can't."""
    try:
        Hasher(settings.password_memory, settings.password_rounds, settings.password_lanes)
    except HashingError as error:
        raise StartError(f"--password-memory {settings.password_memory}: passwords can't be hashed: {error}") from None


def check_endpoints(settings: Settings, reactor: Any) -> None:
    """
    Check that the server can listen on its endpoints. It doesn't listen yet.

    @param reactor: the reactor that the server will use.
    @raise StartError: an endpoint isn't valid, or is in use.
    """
    for option, descriptions in (("--http", settings.http), ("--https", settings.https)):
        for description in descriptions:
            try:
                endpoint(reactor, description)
            except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
                raise StartError(f"{option}: {description} is not a valid endpoint: {error}") from None
            try:
                try_to_bind(description)
            except Exception as error:
                why = (error.strerror if isinstance(error, OSError) else None) or error
                raise StartError(f"{option}: the server can't listen on {description}: {why}") from None


@_in_one_sentence()
def migrate_database(settings: Settings, uid: int | None = None, gid: int | None = None) -> None:
    """
    Create the database if it doesn't exist, upgrade its schema, and check that the directories belong to it.

    @param uid: the user that the server will run as, if it is a different one; it will own the file of an SQLite database.
    @param gid: the group, likewise.
    @raise StartError: the database can't be used, or the directories belong to a different one.
    """
    url = parse_url(settings.database)
    with suppress(ImportError, SQLAlchemyError):  # import it now: the other user may not be able to read Python's files
        url.get_dialect().import_dbapi()
    with _as_user(uid, gid):
        engine, connection = connect(url, settings.store_timeout)
        try:
            with connection.begin():
                known = standing.read(connection)
        finally:
            connection.close()
            engine.dispose()
        for directory in {settings.state, settings.images}:
            belonging.check(directory, None if known is None else known.identity)


def become(uid: int | None) -> None:
    """
    Set the environment to that of the user that the server will run as (C{twistd --uid}).

    Libraries look for files in the home directory: libpq for C{~/.pgpass}, and ssh for its keys.
    """
    with suppress(KeyError):
        if uid is not None:
            user = pwd.getpwuid(uid)
            os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)


def hand_over_log(path: Path, uid: int | None, gid: int | None) -> None:
    """
    Give the log file to the other user before twistd opens it as root. Else that user could neither read nor rotate it.

    @raise StartError: the file can't be created.
    """
    if uid is None and gid is None:
        return
    try:
        # Never follow a link: the directory may belong to another user.
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)) as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid():
                os.fchown(file.fileno(), -1 if uid is None else uid, -1 if gid is None else gid)
    except OSError as error:
        raise StartError(f"log {path}: {error.strerror}") from None


@contextmanager
def _as_user(uid: int | None, gid: int | None) -> Iterator[None]:
    """Run the block as the user and group that the server will run as, so that new files belong to them."""
    before = os.geteuid(), os.getegid()
    try:
        if gid is not None:
            os.setegid(gid)
        if uid is not None:
            os.seteuid(uid)
        yield
    except PermissionError as error:
        raise StartError(f"--uid and --gid: {error.strerror}: only root can become another user") from None
    finally:
        os.seteuid(before[0])
        os.setegid(before[1])


class Lock:
    """The lock files that keep other servers out."""

    def __init__(self) -> None:
        self._files: list[IO[str]] = []

    def also(self, file: IO[str] | None) -> None:
        """Add a lock file."""
        if file is not None:
            self._files.append(file)

    def close(self) -> None:
        """Release all locks."""
        for file in self._files:
            file.close()


def _claim_directory(lock: Lock, directory: Path, what: str, uid: int | None, gid: int | None) -> None:
    """Create a directory if it doesn't exist, and lock it against other servers."""
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
            if uid is not None or gid is not None:
                os.chown(directory, -1 if uid is None else uid, -1 if gid is None else gid)
        with _as_user(uid, gid):
            lock.also(_locked(directory / "lock", what))
    except OSError as error:
        raise StartError(f"{what}: {error.strerror}") from None


def _claim_database(database: str, uid: int | None, gid: int | None) -> IO[str] | None:
    """Lock an SQLite database: two servers would both run the committed tasks, and SQLite locks for a transaction only."""
    url = parse_url(database)
    if url.drivername != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    path = Path(str(url.database)).resolve()
    try:
        with _as_user(uid, gid):
            return _locked(path.with_name(path.name + ".lock"), f"database {path}")
    except OSError as error:
        raise DatabaseError(f"database {path}: {error.strerror}") from None


def _locked(path: Path, what: str) -> IO[str]:
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StartError(f"{what}: another server uses it") from None
    return file
