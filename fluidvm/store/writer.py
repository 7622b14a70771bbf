"""
The store's thread. It owns the one connection that writes, and takes work from a queue.

No error of the connection ends the thread. If it hangs, the reactor abandons it: another thread then takes over the queue,
and this one commits nothing more, and ends when it continues.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm.model.faults import Unavailable
from fluidvm.store.connecting import DatabaseError, Lifeline, close, sentence
from fluidvm.store.end_of_transaction import rows_at_end
from fluidvm.store.source import Displaced, Source

GROUP = 256
"""About how many functions one commit contains: a client waits for all of them."""
_FAILS = (OperationalError, InterfaceError, InternalError)
"""Database errors that are not caused by a function."""
_log = Logger()


@dataclass(eq=False, slots=True)
class Work:
    """
    A function to call in a transaction.

    @ivar since: the reactor's time of the request, in seconds.
    @ivar taken: whether a thread has taken it.
    @ivar expired: whether it has failed without being started.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    done: Deferred[Any]
    since: float
    taken: bool = False
    expired: bool = False


@dataclass(eq=False, slots=True)
class Doubt:
    """
    A transaction whose outcome is unknown: its commit was sent, but not confirmed.

    @ivar results: the results of its functions, if it was committed.
    @ivar outcomes: the Deferreds of the callers that got L{fluidvm.store.database.OutcomeUnknown}.
    """

    number: int
    works: list[Work]
    results: list[Any]
    outcomes: list[Deferred[Any]] = field(default_factory=list)


class Teller(Protocol):
    """The reactor's side. All methods are called with C{callFromThread}."""

    def delivered(self, group: list[Work], results: list[Any], trouble: str) -> None: ...

    def doubted(self, doubt: Doubt, trouble: str) -> None: ...

    def resolved(self, doubt: Doubt, happened: bool) -> None: ...

    def displaced(self, reason: str) -> None: ...

    def ended(self, writer: Writer) -> None: ...


class _GivenUp(Exception):
    """The reactor has abandoned this thread."""


class Writer:
    """
    One thread.

    @param lock: guards the attributes that the reactor reads.
    @param seconds: the reactor's time.
    @param hand: C{callFromThread}.
    @param connection: a connection that is already open.
    @param doubt: the unknown outcome that an abandoned thread left.
    """

    def __init__(
        self,
        source: Source,
        queue: SimpleQueue[list[Work] | None],
        lock: Lock,
        seconds: Callable[[], float],
        hand: Callable[..., Any],
        teller: Teller,
        connection: Connection | None = None,
        doubt: Doubt | None = None,
    ) -> None:
        self._source = source
        self._queue = queue
        self._lock = lock
        self._seconds = seconds
        self._hand = hand
        self._teller = teller
        self._connection = connection
        self._lifeline = None if connection is None else Lifeline(connection)
        self._doubt = doubt
        self._group: list[Work] = []
        self._since = 0.0
        self._given_up = False
        self._thread = Thread(target=self._run, name="store", daemon=True)

    # The reactor's side.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def busy(self, now: float) -> float:
        """Return for how many seconds it has had its current work; 0 if it waits for work."""
        with self._lock:
            return now - self._since if self._group else 0.0

    def give_up(self) -> tuple[list[Work], Doubt | None]:
        """
        Abandon the thread. Commits that it has not sent to the database will not happen.

        @return: its current work, and a transaction whose outcome is unknown.
        """
        with self._lock:
            self._given_up = True
            group, self._group = self._group, []
            doubt, self._doubt = self._doubt, None
            if self._lifeline is not None:
                self._lifeline.cut()
        return group, doubt

    # The thread's side.

    def _run(self) -> None:
        going = True
        try:
            while going:
                group, going = self._take()
                if group:
                    try:
                        self._serve(group)
                    except (_GivenUp, Displaced):
                        raise
                    except BaseException as error:  # whatever the error, others wait for this thread
                        _log.failure("The store's thread failed")
                        self._disconnect()
                        self._answer(group, *_failed(group, error))
        except _GivenUp:
            pass
        except Displaced as error:
            with self._lock:
                if not self._given_up:
                    self._group = []
                    self._hand(self._teller.displaced, str(error))
        finally:
            self._disconnect()
            self._hand(self._teller.ended, self)

    def _take(self) -> tuple[list[Work], bool]:
        found: list[Work] = []
        going = True
        while len(found) < GROUP:
            if found and self._queue.empty():
                break
            batch = self._queue.get()
            if batch is None:
                going = False
                break
            found += batch
        with self._lock:
            if self._given_up:
                raise _GivenUp
            group = [work for work in found if not work.expired]
            for work in group:
                work.taken = True
            self._group, self._since = group, self._seconds()
        return group, going

    def _answer(self, group: list[Work], results: list[Any], trouble: str = "") -> None:
        with self._lock:
            self._check()
            self._group = []
            self._hand(self._teller.delivered, group, results, trouble)

    def _check(self) -> None:
        if self._given_up:
            raise _GivenUp

    def _serve(self, group: list[Work]) -> None:
        mine: Doubt | None = None
        for last in (False, True):
            try:
                connection = self._connected()
                if mine is not None and self._settled(connection, mine):
                    self._answer(group, mine.results)
                    return
            except (_GivenUp, Displaced):
                raise
            except Exception as error:
                self._disconnect()
                self._fail(group, mine, error)
                return
            mine = None
            try:
                results = self._transact(connection, group)
            except (_GivenUp, Displaced):
                raise
            except Exception as error:
                mine = self._doubt
                # A connection that was lost while idle is no reason to fail: try again.
                gone = self._leave(error)
                if mine is None and (last or not gone):
                    self._answer(group, *_failed(group, error))
                    return
                if mine is not None and (last or not gone):
                    self._look_up(group, mine, error)
                    return
            else:
                self._answer(group, results)
                return

    def _look_up(self, group: list[Work], mine: Doubt, error: Exception) -> None:
        """After a failed commit, look up whether it happened all the same."""
        try:
            happened = self._settled(self._connected(), mine)
        except (_GivenUp, Displaced):
            raise
        except Exception as another:
            self._disconnect()
            self._fail(group, mine, another)
        else:
            self._answer(group, *((mine.results,) if happened else _failed(group, error)))

    def _fail(self, group: list[Work], mine: Doubt | None, error: Exception) -> None:
        if mine is None:
            self._answer(group, *_failed(group, error))
            return
        with self._lock:
            self._check()
            self._group = []
            self._hand(self._teller.doubted, mine, _words(error))

    def _connected(self) -> Connection:
        """Return a connection that may write, once the outcome of the last transaction is known."""
        if self._connection is None:
            connection = self._source.reopen(self._check)
            with self._lock:
                self._connection = connection
                self._lifeline = Lifeline(connection)
                self._check()
        doubt = self._doubt
        if doubt is not None and doubt.works is not self._group:
            happened = self._settled(self._connection, doubt)
            with self._lock:
                self._check()
                self._hand(self._teller.resolved, doubt, happened)
        return self._connection

    def _settled(self, connection: Connection, doubt: Doubt) -> bool:
        """Look up the outcome of a transaction, and record it."""
        happened = self._source.happened(connection, doubt.number)
        with self._lock:
            self._check()
            self._doubt = None
            if happened:
                self._source.last = doubt.number
        return happened

    def _transact(self, connection: Connection, group: list[Work]) -> list[Any]:
        before = _written(connection)
        transaction = connection.begin()
        try:
            try:
                with rows_at_end(connection):
                    results = [work.function(connection, *work.args) for work in group]
            except _FAILS:
                raise
            except Exception:
                # One of the functions failed: run all again, each in a savepoint, so that only that one fails. Savepoints
                # cost as much as the statements in them, so they are used in this case only.
                transaction.rollback()
                transaction = connection.begin()
                results = [_alone(connection, work) for work in group]
            number = self._source.last + 1
            numbered = self._source.move(connection, number, before is None or _written(connection) != before)
            with self._lock:
                self._check()
                if numbered:
                    self._doubt = Doubt(number, group, results)
            transaction.commit()
        except BaseException:
            try:
                transaction.rollback()
            except Exception:
                self._disconnect()
            raise
        with self._lock:
            self._check()
            self._doubt = None
            if numbered:
                self._source.last = number
        return results

    def _leave(self, error: Exception) -> bool:
        """
        Close a connection that can't be trusted any more.

        @return: whether the connection was lost.
        """
        lost = self._connection is None or (isinstance(error, DBAPIError) and error.connection_invalidated)
        if lost or (self._connection is not None and self._connection.dialect.name != "sqlite"):
            self._disconnect()
        return lost

    def _disconnect(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.close()
        if connection is not None:
            close(connection)


def _written(connection: Connection) -> int | None:
    """Return a number that changes when something is written; C{None} if the database has none."""
    raw = connection.connection.dbapi_connection
    return raw.total_changes if isinstance(raw, sqlite3.Connection) else None


def _alone(connection: Connection, work: Work) -> Any:
    try:
        with connection.begin_nested(), rows_at_end(connection):
            return work.function(connection, *work.args)
    except _FAILS:
        raise
    except Exception:
        return Failure()


def _failed(group: list[Work], error: BaseException) -> tuple[list[Any], str]:
    """Make the results of a failed transaction: all its functions fail."""
    words = _words(error)
    return [Failure(Unavailable(f"The store failed: {words}."))] * len(group), words


def _words(error: BaseException) -> str:
    """Return the first error of a chain: if SQLite rolls back by itself, releasing the savepoint fails as well."""
    first, link = error, error.__context__
    while link is not None:
        if isinstance(link, SQLAlchemyError):
            first = link
        link = link.__context__
    return sentence(first) if isinstance(first, SQLAlchemyError | DatabaseError | OSError) else type(first).__name__
