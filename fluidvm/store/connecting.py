"""Connecting to a database: its URL, its connections and their timeouts, its schema."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from time import monotonic, sleep
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

CLAIM = 0x466C756964564D
"""The key of the advisory lock that a server holds on its PostgreSQL database."""
LIMIT = 20.0
"""Seconds that the store may take for one operation."""
CONNECTING = 5
"""Seconds that connecting to one of a URL's hosts may take."""
PAUSE = 0.05
"""Seconds between two attempts to take the lock of the database."""
MIGRATING = 3600.0
"""Seconds that migrating the schema may take."""
_HOSTS = re.compile(r"(postgres[a-z+0-9]*://(?:[^/?#]*@)?)([^/?#@]*,[^/?#@]*)((?:[/?#].*)?)")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\],]+))(?::([0-9]*))?")


class DatabaseError(Exception):
    """The database can't be used. The message is one sentence for the operator."""


class Lifeline:
    """Aborts a connection from another thread, even while its own thread uses it."""

    def __init__(self, connection: Connection) -> None:
        raw: Any = connection.connection.dbapi_connection
        self._raw = raw
        # A separate descriptor: that of the connection may be closed by then, and reused for another file.
        self._socket = None if isinstance(raw, sqlite3.Connection) else socket.socket(fileno=os.dup(raw.fileno()))

    def cut(self) -> None:
        """Abort the connection."""
        if self._socket is None:
            with suppress(sqlite3.Error):
                self._raw.interrupt()
        else:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor."""
        if self._socket is not None:
            self._socket.close()


def sentence(error: BaseException) -> str:
    """The message of a database error, on one line, without SQL and parameters (which can contain secrets)."""
    shown = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
    return " ".join(shown.split()).rstrip(".")


def parse_url(url: str) -> URL:
    """
    Parse a database URL. It can have several hosts, as in libpq's URLs (C{//a:1,b:2/NAME}).

    @raise DatabaseError: the URL is not valid, or the kind of database is not supported.
    """
    several = _HOSTS.fullmatch(url)
    try:
        parsed = make_url(url if several is None else several[1] + several[3])
        if several is not None:
            parsed = parsed.update_query_dict(_hosts(several[2]))
    except (ArgumentError, ValueError):
        raise DatabaseError("the database URL can't be parsed; use sqlite:///PATH or postgresql://USER@HOST/NAME") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise DatabaseError(f"database {parsed.drivername}: only sqlite and postgresql are supported")
    try:
        parsed.get_dialect()().create_connect_args(parsed)
    except (ArgumentError, ValueError, TypeError) as error:
        raise DatabaseError(f"database {parsed.render_as_string(hide_password=True)}: {sentence(error)}") from None
    return parsed


def _hosts(words: str) -> dict[str, str]:
    """Convert several hosts to the query of an SQLAlchemy URL. @raise ValueError: they are not valid."""
    found = [_HOST.fullmatch(word) for word in words.split(",")]
    if not all(found):
        raise ValueError(words)
    return {
        "host": ",".join(one[1] or one[2] for one in found if one),
        "port": ",".join(one[3] or "" for one in found if one),
    }


def connect(url: URL, limit: float = LIMIT) -> tuple[Engine, Connection]:
    """
    Connect to a database and migrate its schema. Blocks.

    @param limit: seconds that the database may take for one operation.
    @raise DatabaseError: the database can't be reached, is newer than the program, or does not belong to FluidVM.
    """
    shown = url.render_as_string(hide_password=True)
    try:
        engine = _engine(url, limit)
        connection = engine.connect()
        try:
            if url.drivername != "sqlite":
                with bounded(connection, limit):
                    _claim_soon(connection, shown, limit)
            _migrate(connection, shown, limit)
        except BaseException:
            close(connection)
            raise
    except (SQLAlchemyError, OSError, ValueError) as error:
        raise DatabaseError(f"database {shown}: {sentence(error)}") from None
    except ImportError as error:
        raise DatabaseError(f"database {shown}: {error}; pip install 'fluidvm[postgresql]'") from None
    return engine, connection


@contextmanager
def bounded(connection: Connection, limit: float) -> Iterator[None]:
    """Abort the connection if the block takes longer than C{limit} seconds: no setting covers every way to hang."""
    lifeline = Lifeline(connection)
    timer = Timer(limit, lifeline.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        lifeline.close()


def close(connection: Connection) -> None:
    """Close a connection, whatever its state."""
    with suppress(SQLAlchemyError):
        connection.invalidate()
    with suppress(SQLAlchemyError):
        connection.close()


def claim(connection: Connection, limit: float) -> bool:
    """
    Take the lock of the database: only one server may use it at a time, because a server keeps all objects in memory.

    It is a PostgreSQL advisory lock of the connection that writes, so the lock is lost with the connection.

    @param limit: seconds that the database may take for one operation from now on.
    @return: whether the lock was free.
    """
    bounds = {"statement_timeout": limit, "lock_timeout": limit / 2, "idle_in_transaction_session_timeout": 2 * limit}
    with connection.begin():
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": CLAIM}).scalar():
            return False
        for name, seconds in bounds.items():
            connection.execute(
                text("SELECT set_config(:name, :value, false)"), {"name": name, "value": f"{int(seconds * 1000)}ms"}
            )
    return True


def _claim_soon(connection: Connection, shown: str, limit: float) -> None:
    """Take the lock, with retries: PostgreSQL frees the lock of a server a little after that server ends."""
    deadline = monotonic() + limit / 4
    while not claim(connection, limit):
        if monotonic() > deadline:
            raise DatabaseError(f"database {shown}: another server uses it")
        sleep(PAUSE)


def _engine(url: URL, limit: float) -> Engine:
    if url.drivername != "sqlite":
        milliseconds = int(limit * 1000)
        bounds = {
            "connect_timeout": CONNECTING,
            "keepalives_idle": max(1, int(limit / 4)),
            "keepalives_interval": max(1, int(limit / 4)),
            "keepalives_count": 2,
            "tcp_user_timeout": milliseconds,
            "application_name": "fluidvm",
        }
        given = {name: value for name, value in bounds.items() if name not in url.query}
        # No pool: it would reconnect by itself, but a new connection must take the lock first.
        return create_engine(url, poolclass=NullPool, connect_args=given)
    if url.database and url.database != ":memory:":
        # The file contains password hashes: create it unreadable for others, before SQLite creates it readable.
        try:
            Path(url.database).touch(mode=0o600)
        except OSError as error:
            raise DatabaseError(f"database {url.database}: {error.strerror}") from None
    engine = create_engine(url, poolclass=NullPool, connect_args={"check_same_thread": False, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            connection.execute("PRAGMA " + pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that writes after it read fails at once when another process writes.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _migrate(connection: Connection, shown: str, limit: float) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    known = ScriptDirectory.from_config(config)
    with bounded(connection, limit), connection.begin():
        current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {script.revision for script in known.walk_revisions()}:
        raise DatabaseError(
            f"database {shown} has schema {current}, newer than this program's {known.get_current_head()}: upgrade FluidVM"
        )
    if current != known.get_current_head():
        config.attributes["connection"] = connection
        with bounded(connection, MIGRATING), connection.begin():
            if connection.dialect.name != "sqlite":
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            command.upgrade(config, "head")
