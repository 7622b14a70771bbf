"""A whole server on one Clock and without a thread: the store, the hashes and the files of images answer at once."""

from __future__ import annotations

import shutil
import tempfile
import xmlrpc.client
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred, execute, succeed

from fluidvm.auth import logins
from fluidvm.images.files import ImageFiles
from fluidvm.store.database import Database, connect
from fluidvm.store.end_of_transaction import rows_at_end
from fluidvm.wire.peer import Peer
from tests.databases import new_database
from tests.support import PASSWORD, Running, ServerCase


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
        with self._connection.begin(), rows_at_end(self._connection):
            return function(self._connection, *args)

    def close(self) -> Any:
        assert self._connection is not None and self._engine is not None
        self._connection.close()
        self._engine.dispose()
        return succeed(None)


def without_threads(kept: ExitStack, database: type[Database] = InlineDatabase) -> None:
    """Until C{kept} is closed, servers have no threads: their store and their password hashes answer at once."""
    kept.enter_context(patch.object(logins.Logins, "_run", lambda self, function, *args: execute(function, *args)))
    kept.enter_context(patch("fluidvm.server.service.Database", database))


def _at_once(self: object, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    return execute(function, *args)


class InlineServer:
    """
    A server that is there as soon as it is made; L{stop} stops it and removes what it left.

    @ivar running: the server and its clock.
    """

    def __init__(self, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self._kept = ExitStack()
        self._kept.callback(shutil.rmtree, self.directory)
        without_threads(self._kept)
        self._kept.enter_context(patch.object(ImageFiles, "_run", _at_once))
        self._kept.enter_context(
            patch("fluidvm.nodes.nodes.deferToThreadPool", lambda reactor, pool, *work, **more: execute(*work, **more))
        )
        database = self._kept.enter_context(new_database(None))
        (self.directory / "password").write_text(PASSWORD)
        case = ServerCase()
        case.directory = self.directory
        self.running = Running(case.settings(*options, "--database", database))
        self.running.server.startService()
        self.running.server.dispatcher._services.rehearsals._turn = lambda: succeed(None)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method; it must answer without waiting."""
        body = xmlrpc.client.dumps(arguments, method).encode()
        answer: Any = self.running.server.dispatcher.dispatch(body, Peer(address="192.0.2.1"))
        if isinstance(answer, Deferred):
            answer = now(answer, method)
        return xmlrpc.client.loads(answer, use_builtin_types=True)[0][0]

    def login(self, name: str = "admin") -> int:
        """Log in; gives the cookie."""
        cookie: int = self.call("authenticate", name, PASSWORD)
        return cookie

    def stop(self) -> None:
        """Stop the server; time passes meanwhile."""
        try:
            stopping = self.running.server.stopService()
            while not stopping.called:
                self.running.clock.advance(1.0)
        finally:
            self._kept.close()


def now(work: Deferred[Any], what: str) -> Any:
    """What something has come to; it must have, without waiting."""
    outcome: list[Any] = []
    work.addBoth(outcome.append)
    assert outcome, f"{what} didn't answer"
    return outcome[0]
