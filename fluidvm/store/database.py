"""
One database, one write thread: the async border of the store.

What is waiting when the thread gets to it is committed together, each function within a savepoint of its own; results reach
the reactor in the order of the commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, Protocol, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Insert, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from fluidvm.faults import Unavailable

T = TypeVar("T")
CLAIM = 0x466C756964564D
"""The number of the lock that a server holds on its PostgreSQL database."""
GROUP = 256
"""How many functions one commit takes along, or a few more: what a client waits for, beside its own."""


class DatabaseError(Exception):
    """The database can't be used, in one sentence for the operator."""


class IFromThread(Protocol):
    """The part of a reactor that a thread needs."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any) -> Any: ...


class _Work(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]
    done: Deferred[Any]


class Database:
    """
    The store's connection.

    @param url: an SQLAlchemy URL; C{sqlite:///PATH} or C{postgresql://...} (psycopg 3).
    @param reactor: gets the results.
    """

    def __init__(self, url: str, reactor: IFromThread) -> None:
        self._url = parse_url(url)
        self._reactor = reactor
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._batch: list[_Work] = []
        self._queue: SimpleQueue[list[_Work] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._closed: Deferred[None] = Deferred()
        self.trouble = ""
        """Why the last transaction failed; empty: it didn't."""

    def open(self) -> Connection:
        """
        Connect, bring the schema up to date, and start the thread. Blocks: called before the reactor runs.

        @return: a connection for loading what the store holds, before the first L{run}.
        @raise DatabaseError: it can't be reached, is newer than the program, or isn't FluidVM's.
        """
        self._engine, self._connection = connect(self._url)
        self._thread = Thread(target=self._work, name="store", daemon=True)
        self._thread.start()
        return self._connection

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Call C{function(connection, *args)} in the thread, in a transaction of its own.

        @return: fires in the reactor with what it returned, once that is durable.
        @raise Unavailable: the database failed; nothing of this function was kept.
        """
        if self._thread is None:
            return fail(Unavailable("The store is closed."))
        done: Deferred[T] = Deferred()
        if not self._batch:
            # All that one turn of the reactor asks for goes together: the thread would take the first of it alone, and then
            # the two would hand Python's lock to and fro for each of the rest.
            self._reactor.callFromThread(self._hand_over)
        self._batch.append(_Work(function, args, done))
        return done

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._queue.put(batch)

    def close(self) -> Deferred[None]:
        """Finish what was asked before, then disconnect. The Deferred fires when that is done."""
        done: Deferred[None] = Deferred()
        if self._thread is None:
            done.callback(None)
            return done
        self._thread = None
        self._hand_over()
        self._closed = done
        self._queue.put(None)
        return done

    def _work(self) -> None:
        going = True
        while going:
            group: list[_Work] = []
            while len(group) < GROUP:
                if group and self._queue.empty():
                    break
                batch = self._queue.get()
                if batch is None:
                    going = False
                    break
                group += batch
            if group:
                results = self._commit(group)
                self._reactor.callFromThread(_deliver, group, results)
        assert self._connection is not None and self._engine is not None
        self._connection.close()
        self._engine.dispose()
        self._reactor.callFromThread(self._closed.callback, None)

    def _commit(self, group: list[_Work]) -> list[Any]:
        connection = self._connection
        assert connection is not None
        try:
            try:
                with connection.begin():
                    results = [function(connection, *args) for function, args, _ in group]
                    write_later(connection)
            except (OperationalError, InterfaceError):
                raise
            except Exception:
                # One of them failed for reasons of its own: again, each so that it fails alone. Savepoints cost as much as
                # the statements in them, so they are for this case only.
                connection.info.pop("later", None)
                with connection.begin():
                    results = [_alone(connection, work) for work in group]
        except SQLAlchemyError as error:
            connection.info.pop("later", None)
            # The whole transaction is gone, also what its functions did well.
            self.trouble = sentence(_first(error))
            return [Failure(Unavailable(f"The store failed: {self.trouble}."))] * len(group)
        self.trouble = ""
        return results


def _alone(connection: Connection, work: _Work) -> Any:
    try:
        with connection.begin_nested():
            result = work.function(connection, *work.args)
            write_later(connection)
            return result
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        connection.info.pop("later", None)
        return Failure()


def later(connection: Connection, statement: Insert, rows: Iterable[Mapping[str, Any]]) -> None:
    """
    Insert rows at the end of the transaction, together with those of whatever is committed along with it.

    For rows that nothing refers to and no constraint can refuse. Who begins a transaction ends it with L{write_later}.
    """
    connection.info.setdefault("later", {}).setdefault(statement, []).extend(rows)


def write_later(connection: Connection) -> None:
    """Insert what was to be inserted later."""
    for statement, rows in connection.info.pop("later", {}).items():
        if rows:
            connection.execute(statement, rows)


def _deliver(group: list[_Work], results: list[Any]) -> None:
    for work, result in zip(group, results, strict=True):
        work.done.callback(result)  # a Failure starts the errbacks


def _first(error: BaseException) -> SQLAlchemyError:
    """What went wrong first: when SQLite rolls back by itself, the end of the savepoint fails as well."""
    first, link = error, error.__context__
    while link is not None:
        if isinstance(link, SQLAlchemyError):
            first = link
        link = link.__context__
    assert isinstance(first, SQLAlchemyError)
    return first


def sentence(error: Exception) -> str:
    """What a database says was wrong, on one line without SQL and parameters (which can hold secrets)."""
    shown = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
    return " ".join(shown.split()).rstrip(".")


def parse_url(url: str) -> URL:
    """
    Check a database URL.

    @raise DatabaseError: it is none, or not of a kind that FluidVM can use.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseError("the database URL can't be parsed; sqlite:///PATH or postgresql://USER@HOST/NAME") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise DatabaseError(f"database {parsed.drivername}: only sqlite and postgresql are supported")
    return parsed


def connect(url: URL) -> tuple[Engine, Connection]:
    """
    Connect to a database and bring its schema up to date.

    @raise DatabaseError: as L{Database.open}.
    """
    shown = url.render_as_string(hide_password=True)
    try:
        engine = _engine(url)
        connection = engine.connect()
        try:
            if url.drivername != "sqlite":
                _claim(connection, shown)
            _migrate(connection, shown)
        except BaseException:
            connection.close()
            engine.dispose()
            raise
    except SQLAlchemyError as error:
        raise DatabaseError(f"database {shown}: {sentence(error)}") from None
    except ImportError as error:
        raise DatabaseError(f"database {shown}: {error}; pip install 'fluidvm[postgresql]'") from None
    return engine, connection


def _claim(connection: Connection, shown: str) -> None:
    """One server at a time: what it knows is in its memory. Held as long as the connection (PostgreSQL's advisory locks)."""
    with connection.begin():
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": CLAIM}).scalar():
            raise DatabaseError(f"database {shown}: another server uses it")


def _engine(url: URL) -> Engine:
    if url.drivername != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    if url.database and url.database != ":memory:":
        # The file holds password hashes: made unreadable for others before SQLite makes it readable.
        try:
            Path(url.database).touch(mode=0o600)
        except OSError as error:
            raise DatabaseError(f"database {url.database}: {error.strerror}") from None
    engine = create_engine(url, connect_args={"check_same_thread": False, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            connection.execute("PRAGMA " + pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that writes after it read fails at once when another process writes.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _migrate(connection: Connection, shown: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    known = ScriptDirectory.from_config(config)
    with connection.begin():
        current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {script.revision for script in known.walk_revisions()}:
        raise DatabaseError(
            f"database {shown} has schema {current}, newer than this program's {known.get_current_head()}: upgrade FluidVM"
        )
    if current != known.get_current_head():
        config.attributes["connection"] = connection
        with connection.begin():
            command.upgrade(config, "head")
