"""The database of a server: opened once, and reconnected only if no other server has used it in between."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from fluidvm.store import standing
from fluidvm.store.connecting import PAUSE, DatabaseError, bounded, claim, close, connect, sentence
from fluidvm.store.sqlite_files import SqliteFiles

_END = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid AND backend_start::text = :begun")


class Displaced(Exception):
    """The objects in memory do not match the database any more: the server must stop. The message is one sentence."""


class Source:
    """
    The database, and the last known state of it.

    @param limit: seconds that the database may take for one operation.
    @ivar identity: the unique id of the database.
    @ivar last: the number of the last transaction that is known to be committed.
    """

    def __init__(self, url: URL, limit: float) -> None:
        self.identity = ""
        self.last = 0
        self._url = url
        self._limit = limit
        self._shown = url.render_as_string(hide_password=True)
        self._term = ""
        self._engine: Engine | None = None
        self._files = SqliteFiles(url)
        self._backend: tuple[int, str] | None = None

    def open(self) -> Connection:
        """Connect for the first time, and begin a term. Blocks. @raise DatabaseError: the database can't be used."""
        self._engine, connection = connect(self._url, self._limit)
        try:
            with bounded(connection, self._limit), connection.begin():
                self.identity, self._term, self.last = standing.begin(connection)
                self._remember(connection)
        except SQLAlchemyError as error:
            close(connection)
            raise DatabaseError(f"database {self._shown}: {sentence(error)}") from None
        self._files.note()
        return connection

    def reopen(self, check: Callable[[], None]) -> Connection:
        """
        Reconnect. Blocks.

        @param check: called repeatedly; an exception from it ends the attempt.
        @return: a connection that may write.
        @raise DatabaseError: reconnecting is not possible now.
        @raise Displaced: another server has begun a term since.
        """
        assert self._engine is not None
        # Read it now: if this attempt takes too long, another one may succeed, and its connection must not be ended.
        lost = self._backend
        self._files.check(log=False)
        connection = self._engine.connect()
        try:
            if connection.dialect.name != "sqlite":
                with bounded(connection, self._limit):
                    self._claim(connection, lost, check)
            self.happened(connection, self.last + 1)
            self._files.note()
        except BaseException:
            close(connection)
            raise
        return connection

    def _claim(self, connection: Connection, lost: tuple[int, str] | None, check: Callable[[], None]) -> None:
        with connection.begin():
            if connection.execute(text("SHOW transaction_read_only")).scalar() == "on":
                raise DatabaseError("it is read-only, as a standby or during recovery")
        deadline = time.monotonic() + self._limit / 4
        while not claim(connection, self._limit):
            check()
            self._standing(connection)
            if time.monotonic() > deadline:
                raise DatabaseError("another connection holds its lock")
            if lost is not None:
                # The lost connection may hold the lock, because the database has not noticed yet that it is lost.
                with connection.begin():
                    connection.execute(_END, {"pid": lost[0], "begun": lost[1]})
            time.sleep(PAUSE)
        with connection.begin():
            self._remember(connection)

    def _remember(self, connection: Connection) -> None:
        if connection.dialect.name != "sqlite":
            mine = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            pid, begun = connection.execute(text(mine)).one()
            self._backend = (pid, begun)

    def _standing(self, connection: Connection) -> standing.Standing:
        with connection.begin():
            found = standing.read(connection)
        if found is None or (found.identity, found.term) != (self.identity, self._term):
            raise Displaced("another server has taken over the database, or another database replaced it")
        return found

    def move(self, connection: Connection, number: int, written: bool) -> bool:
        """
        Number the current transaction, at its end.

        @param written: whether it has written something, as far as known.
        @return: whether it has.
        @raise DatabaseError: a file of the database was deleted or replaced.
        @raise Displaced: another server has begun a term since.
        """
        self._files.check()
        if not written:
            return False
        if standing.move(connection, self._term, number):
            return True
        found = standing.read(connection)
        if found is None or found.term != self._term:
            raise Displaced("another server has taken over the database, or another database replaced it")
        return False

    def happened(self, connection: Connection, number: int) -> bool:
        """
        Look up whether a transaction was committed. No transaction that could still be committed may be in progress.

        @param number: its number, one above L{last}.
        @raise Displaced: earlier committed transactions are lost.
        """
        last = self._standing(connection).last
        if last not in (number - 1, number):
            raise Displaced(f"the database has lost committed transactions: it is at number {last}, not at {number - 1}")
        return last == number
