"""A whole server without threads, on one Clock: what it does depends on nothing but what it is told."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import execute, succeed

from fluidvm import logins
from fluidvm.store.database import Database, connect, write_later


class InlineDatabase(Database):
    """The real store, without its thread."""

    def open(self) -> Any:
        self._engine, self._connection = connect(self._url)
        return self._connection

    @property
    def identity(self) -> str:
        return "the model's"

    def run(self, function: Any, *args: Any) -> Any:
        return execute(self._call, function, args)

    def _call(self, function: Any, args: Any) -> Any:
        assert self._connection is not None
        with self._connection.begin():
            result = function(self._connection, *args)
            write_later(self._connection)
            return result

    def close(self) -> Any:
        assert self._connection is not None and self._engine is not None
        self._connection.close()
        self._engine.dispose()
        return succeed(None)


def without_threads(kept: ExitStack, database: type[Database] = InlineDatabase) -> None:
    """Until C{kept} is closed, servers have no threads: their store and their password hashes answer at once."""
    kept.enter_context(patch.object(logins.Logins, "_run", lambda self, function, *args: execute(function, *args)))
    kept.enter_context(patch("fluidvm.service.Database", database))
