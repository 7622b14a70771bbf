"""What tests of the store share."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select
from twisted.internet import reactor as _reactor
from twisted.trial.unittest import TestCase

from fluidvm.store import schema
from fluidvm.store.database import Database
from tests.databases import new_database


def put(connection: Connection, type_name: str) -> str:
    """Write a row. @raise IntegrityError: a row with this name exists."""
    connection.execute(insert(schema.id_counters), {"type": type_name, "last": 1})
    return type_name


def names(connection: Connection) -> list[str]:
    """Return the names that L{put} has written, in alphabetical order."""
    return [row.type for row in connection.execute(select(schema.id_counters).order_by("type"))]


def database_at(url: str) -> Database:
    """Make the store for a database, without opening it."""
    reactor: Any = _reactor
    return Database(url, reactor)


class DatabaseCase(TestCase):
    """
    Tests with an open database, on the run's engine.

    @ivar path: the file, for SQLite.
    @ivar url: the URL of the database.
    """

    def setUp(self) -> None:
        self._kept = ExitStack()
        self.addCleanup(self._kept.close)
        self.path = Path(self.mktemp()).absolute()
        self.url = self._kept.enter_context(new_database(self.path))
        self.database = self.make()
        self.addCleanup(lambda: self.database.close())  # whichever it is by then
        self.database.open()

    def make(self) -> Database:
        """Make another store for the same database, without opening it."""
        return database_at(self.url)
