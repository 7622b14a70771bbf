"""
What can be found wrong before the daemon forks is found here: each mistake ends the start with one line on the terminal.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sqlalchemy.exc import SQLAlchemyError
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from fluidvm.admin import PasswordError, read_password
from fluidvm.certificates import MappingError, read_mapping
from fluidvm.options import Settings
from fluidvm.store.database import DatabaseError, connect, parse_url
from fluidvm.wire.tls import TLSError, server_options


class StartError(Exception):
    """The server can't start, in one sentence."""


def check(settings: Settings, uid: int | None = None, gid: int | None = None) -> Lock:
    """
    Check everything that the start will need.

    @param uid: the user that the server will run as, where that is another (C{twistd --uid}): the state is made to be its.
    @param gid: the group.

    @return: the lock of the state directory and of the database: held as long as it is open, over a fork.
    @raise StartError: says what is wrong.
    """
    lock = _claim_state(settings.state, uid, gid)
    try:
        _check_all(settings, lock, uid, gid)
    except BaseException:
        lock.close()
        raise
    return lock


def _check_all(settings: Settings, lock: Lock, uid: int | None, gid: int | None) -> None:
    try:
        lock.also(_claim_database(settings.database, uid, gid))
        if settings.tls is not None:
            server_options(settings.tls)
        if settings.certificate_users is not None:
            read_mapping(settings.certificate_users)
        if settings.admin_password_file is not None:
            read_password(settings.admin_password_file)
        for endpoint in (*settings.http, *settings.https):
            _try_endpoint(endpoint)
        with suppress(ImportError, SQLAlchemyError):  # who can't read Python's own files can use what is loaded
            parse_url(settings.database).get_dialect().import_dbapi()
        with _as_user(uid, gid):
            engine, connection = connect(parse_url(settings.database))
            connection.close()
            engine.dispose()
    except (DatabaseError, MappingError, PasswordError, TLSError) as error:
        raise StartError(str(error)) from None


@contextmanager
def _as_user(uid: int | None, gid: int | None) -> Iterator[None]:
    """What is made within the block belongs to another user, where the server will run as one."""
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
    """What no other server may use meanwhile."""

    def __init__(self) -> None:
        self._files: list[IO[str]] = []

    def also(self, file: IO[str] | None) -> None:
        """Hold one more lock."""
        if file is not None:
            self._files.append(file)

    def close(self) -> None:
        """Let go of all."""
        for file in self._files:
            file.close()


def _claim_state(state: Path, uid: int | None, gid: int | None) -> Lock:
    lock = Lock()
    try:
        if not state.exists():
            state.mkdir(mode=0o700, parents=True)
            if uid is not None or gid is not None:
                os.chown(state, -1 if uid is None else uid, -1 if gid is None else gid)
        with _as_user(uid, gid):
            lock.also(_locked(state / "lock", f"state directory {state}"))
    except OSError as error:
        raise StartError(f"state directory {state}: {error.strerror}") from None
    return lock


def _claim_database(database: str, uid: int | None, gid: int | None) -> IO[str] | None:
    """Two servers on one database would both run what was committed; SQLite's own locks are per transaction."""
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


class _Trial(Factory):
    """Names itself in the log's lines about the ports."""

    noisy = False

    def logPrefix(self) -> str:
        return "A trial of the endpoint"


def _try_endpoint(description: str) -> None:
    """Listen for a moment, on a reactor of its own: the real one can't let go of a port before it runs."""
    reactor = SelectReactor()
    outcome: list[object] = []
    try:
        endpoint = serverFromString(reactor, description)
    except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
        raise StartError(f"endpoint {description}: {error or 'is none'}") from None
    endpoint.listen(_Trial()).addBoth(outcome.append)
    if outcome and isinstance(outcome[0], Failure):
        failed = outcome[0].value
        why = failed.socketError.strerror if isinstance(failed, CannotListenError) else failed
        raise StartError(f"endpoint {description}: can't listen: {why}")
    for port in outcome:
        done: list[object] = []
        port.stopListening().addBoth(done.append)  # type: ignore[attr-defined]
        while not done:
            reactor.runUntilCurrent()
            reactor.doIteration(0)
    reactor.removeAll()
