"""
The asynchronous interface of the store: one database, one write thread.

All functions that wait when the thread is ready are committed together. If one of them fails, each is run again within its
own savepoint. Results reach the reactor in the order of the commits. The reactor's clock limits the time of everything: a
thread that hangs is abandoned, and another one continues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from queue import SimpleQueue
from threading import Lock, Timer
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm.model.faults import Unavailable
from fluidvm.store.connecting import LIMIT, DatabaseError, Lifeline, connect, parse_url
from fluidvm.store.source import Source
from fluidvm.store.writer import Doubt, Work, Writer

__all__ = ["Database", "DatabaseError", "OutcomeUnknown", "connect", "parse_url"]

T = TypeVar("T")
LOADING = 600.0
"""Seconds that loading everything at the start may take."""
CLOSING = 10.0
"""Seconds that closing may take."""
TICK = 1.0
"""Seconds between two checks for work that takes too long."""
IDLE = 5.0
"""Seconds without work after which the connection and the ownership of the database are checked."""
SLOW = 5.0
"""Seconds that work may wait before C{/health} reports it."""
MOST_GIVEN_UP = 8
"""Maximum number of abandoned threads that still hang."""


class Reactor(Protocol):
    """The parts of a reactor that the store needs."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any) -> Any: ...

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any) -> IDelayedCall: ...

    def seconds(self) -> float: ...


class OutcomeUnknown(Unavailable):
    """
    The database became unavailable during a commit, before it confirmed the commit.

    @ivar outcome: fires when the outcome is known, like the Deferred of L{Database.run}. Nothing is written before that.
    """

    def __init__(self, text: str, outcome: Deferred[Any]) -> None:
        super().__init__(text)
        self.outcome = outcome


class Database:
    """
    The database of the server.

    @param url: an SQLAlchemy URL: C{sqlite:///PATH} or C{postgresql://...} (psycopg 3).
    @param reactor: receives the results; its clock limits the time of the work.
    @param limit: seconds that the database may take for one operation.
    @param displaced: called with a sentence when another server has taken over the database, or the database has lost data:
        this server must stop.
    @ivar trouble: why the last transaction failed; empty if it succeeded.
    """

    _log = Logger()

    def __init__(
        self, url: str, reactor: Reactor, limit: float = LIMIT, displaced: Callable[[str], None] = lambda reason: None
    ) -> None:
        self.trouble = ""
        self._url = parse_url(url)
        self._reactor = reactor
        self._limit = limit
        self._displaced = displaced
        self._source = Source(self._url, limit)
        self._batch: list[Work] = []
        self._queue: SimpleQueue[list[Work] | None] = SimpleQueue()
        self._waiting: deque[Work] = deque()
        self._lock = Lock()
        self._writer: Writer | None = None
        self._given_up: list[Writer] = []
        self._doubt: Doubt | None = None
        self._refusing = "The store is closed."
        self._closed: Deferred[None] | None = None
        self._ticking: IDelayedCall | None = None
        self._closing: IDelayedCall | None = None
        self._last_work = 0.0

    def open(self) -> Connection:
        """
        Connect, migrate the schema, and start the thread. Blocks: called before the reactor runs.

        @return: a connection for loading the contents of the store, before the first L{run}.
        @raise DatabaseError: the database can't be reached, is newer than the program, or does not belong to FluidVM.
        """
        connection = self._source.open()
        lifeline = Lifeline(connection)
        loading = Timer(LOADING, lifeline.cut)
        loading.daemon = True
        loading.start()
        self._reactor.callFromThread(_loaded, loading, lifeline)
        self._refusing = ""
        self._begin(connection)
        self._last_work = self._reactor.seconds()
        self._ticking = self._reactor.callLater(TICK, self._tick)
        return connection

    @property
    def identity(self) -> str:
        """The unique id of the database; known once it is open."""
        return self._source.identity

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Call C{function(connection, *args)} in the thread, within a transaction.

        It may be called again, in another transaction, if the first one failed.

        @return: fires in the reactor with the result, once the transaction is committed.
        @raise OutcomeUnknown: the database became unavailable during the commit.
        @raise Unavailable: the database failed, or took too long; nothing of this function was or will be stored.
        """
        if self._refusing:
            return fail(Unavailable(self._refusing))
        done: Deferred[T] = Deferred()
        if not self._batch:
            # Hand over all work of one turn of the reactor together: else the thread would take the first item alone, and
            # the two threads would pass Python's lock back and forth for each of the others.
            self._reactor.callFromThread(self._hand_over)
        work = Work(function, args, done, self._reactor.seconds())
        self._batch.append(work)
        self._waiting.append(work)
        return done

    def waits(self) -> float:
        """Return for how many seconds the oldest unfinished work has waited; 0 if there is none."""
        return self._reactor.seconds() - self._waiting[0].since if self._waiting else 0.0

    def reasons(self) -> list[str]:
        """Return the reasons why the store is not healthy; empty if it is."""
        found = [f"the store fails: {self.trouble}"] if self.trouble else []
        if self.waits() > SLOW:
            found.append(f"the store is slow: its oldest request has waited for {self.waits():.0f} s")
        return found

    def close(self) -> Deferred[None]:
        """Finish all earlier work, then disconnect. The Deferred fires when that is done, or takes too long."""
        done: Deferred[None] = Deferred()
        self._refusing = self._refusing or "The store is closed."
        if self._closed is not None or self._writer is None:
            self._stop_ticking()
            self._answer_all(Unavailable(self._refusing))
            done.callback(None)
            return done
        self._closed = done
        self._hand_over()
        self._queue.put(None)
        self._closing = self._reactor.callLater(CLOSING, self._leave)
        return done

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._queue.put(batch)

    def _begin(self, connection: Connection | None = None) -> None:
        reactor, doubt = self._reactor, self._doubt
        self._doubt = None
        self._writer = Writer(
            self._source, self._queue, self._lock, reactor.seconds, reactor.callFromThread, self, connection, doubt
        )
        self._writer.start()

    # Timeouts.

    def _tick(self) -> None:
        now = self._reactor.seconds()
        self._ticking = self._reactor.callLater(TICK, self._tick)
        self._expire(now)
        writer = self._writer
        if writer is None:
            self._given_up = [one for one in self._given_up if one.alive]
            if len(self._given_up) < MOST_GIVEN_UP:
                self._begin()
        elif writer.busy(now) > self._limit or not writer.alive:
            self._give_up(writer)
        elif self._waiting:
            self._last_work = now
        elif now - self._last_work >= (TICK if self.trouble else IDLE) and not self._refusing:
            # Notice a lost connection, and a restored one, even without work.
            self._last_work = now
            self.run(_look).addErrback(lambda failure: None)

    def _expire(self, now: float) -> None:
        with self._lock:
            overdue = takewhile(lambda work: now - work.since > self._limit, self._waiting)
            late = [work for work in overdue if not work.taken]
            for work in late:
                work.expired = True
        for work in late:
            work.done.errback(Unavailable(f"The store did not start the work within {self._limit:.0f} s: try again later."))
        self._forget_done()

    def _give_up(self, writer: Writer) -> None:
        group, doubt = writer.give_up()
        self._writer, self._doubt = None, doubt
        self._given_up.append(writer)
        if not self._refusing:
            self.trouble = f"no answer within {self._limit:.0f} s"
            self._log.error("The store did not answer within {limit} s: reconnecting", limit=self._limit)
        if doubt is not None and doubt.works is group:
            self._tell_doubt(doubt)
        else:
            for work in group:
                work.done.errback(Unavailable(f"The store did not answer within {self._limit:.0f} s: try again later."))
        self._forget_done()

    def _leave(self) -> None:
        """Abandon the connection: closing takes too long."""
        self._closing = None
        if self._writer is not None:
            self._writer.give_up()
            self._writer = None
        self._log.error("The store does not answer: its connection is abandoned")
        self._finish()

    def _finish(self) -> None:
        self._stop_ticking()
        self._answer_all(Unavailable(self._refusing))
        if self._closed is not None and not self._closed.called:
            self._closed.callback(None)

    def _stop_ticking(self) -> None:
        for waiting in (self._ticking, self._closing):
            if waiting is not None and waiting.active():
                waiting.cancel()

    def _answer_all(self, fault: Unavailable) -> None:
        with self._lock:
            left = [work for work in self._waiting if not work.done.called]
            for work in left:
                work.expired = True
        for work in left:
            work.done.errback(fault)
        self._forget_done()

    def _forget_done(self) -> None:
        while self._waiting and self._waiting[0].done.called:
            self._waiting.popleft()

    # Called by the thread, in order.

    def delivered(self, group: list[Work], results: list[Any], trouble: str) -> None:
        """A transaction has ended."""
        self._note(trouble)
        for work, result in zip(group, results, strict=True):
            if not work.done.called:  # closing may have timed out
                work.done.callback(result)  # a Failure starts the errbacks
        self._forget_done()

    def _note(self, trouble: str) -> None:
        if trouble and not self.trouble:
            self._log.error("The store fails: {trouble}", trouble=trouble)
        elif self.trouble and not trouble:
            self._log.info("The store is back")
        self.trouble = trouble

    def doubted(self, doubt: Doubt, trouble: str) -> None:
        """The outcome of a transaction is unknown for now."""
        self._note(trouble)
        self._tell_doubt(doubt)
        self._forget_done()

    def _tell_doubt(self, doubt: Doubt) -> None:
        self._log.error("The store became unavailable during a commit: checking the outcome when it is available again")
        doubt.outcomes = [Deferred() for _ in doubt.works]
        text = "The store became unavailable during a commit: the outcome is known when the store is available again."
        for work, outcome in zip(doubt.works, doubt.outcomes, strict=True):
            if not work.done.called:
                work.done.errback(OutcomeUnknown(text, outcome))

    def resolved(self, doubt: Doubt, happened: bool) -> None:
        """A transaction's outcome is known."""
        self._log.info("The commit that the store did not answer was {what}", what="stored" if happened else "not stored")
        lost = Failure(Unavailable("The store failed: nothing was stored."))
        for outcome, result in zip(doubt.outcomes, doubt.results, strict=True):
            outcome.callback(result if happened else lost)
            if not happened or isinstance(result, Failure):
                outcome.addErrback(lambda failure: None)  # all listeners have been notified by now

    def displaced(self, reason: str) -> None:
        """Another server has taken over the database."""
        self._refusing = f"The server stops: {reason}."
        self.trouble = reason
        self._displaced(reason)
        self._answer_all(Unavailable(self._refusing))

    def ended(self, writer: Writer) -> None:
        """A thread has ended."""
        if writer is self._writer and (self._closed is not None or self._refusing):
            self._writer = None
            self._finish()


def _look(connection: Connection) -> None:
    """Do nothing: the transaction itself is the check."""


def _loaded(loading: Timer, lifeline: Lifeline) -> None:
    loading.cancel()
    lifeline.close()
