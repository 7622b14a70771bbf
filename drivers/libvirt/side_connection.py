"""Additional connections to a host, for calls that can block a whole connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import libvirt
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from fluidvm.driver import DriverError, DriverHost, Unreachable
from fluidvm.drivers.libvirt.connection import KEEPALIVE, LogIn, do_open

T = TypeVar("T")


class SideConnection:
    """
    An additional connection to a node's host, with its own threads.

    libvirtd serves five requests of a client at a time (C{max_client_requests} in its libvirtd.conf), and reads nothing
    more from it meanwhile. Calls that wait for a guest use a separate connection, so that they don't block others.

    The connection is opened by the first call that needs it, and again after it was lost.

    @param log_in: as for the node's own connection.
    @param purpose: its purpose, for messages: C{guest agents}.
    @param threads: the number of parallel calls.
    @param keepalive: as L{KEEPALIVE}.
    """

    _log = Logger()

    def __init__(
        self,
        uri: str,
        log_in: LogIn | None,
        host: DriverHost,
        purpose: str,
        threads: int = 1,
        keepalive: tuple[int, int] = KEEPALIVE,
    ) -> None:
        self._uri = uri
        self._log_in = log_in
        self._host = host
        self._purpose = purpose
        self._keepalive = keepalive
        self._connection: Any = None
        self._opening = threading.Lock()
        self._pool = ThreadPool(0, threads, f"{purpose} of node {host.node}")
        # A hanging call must not prevent the server from exiting.
        self._pool.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        self._ended = False
        self.over: Deferred[None] = Deferred()
        """Fires when the connection is closed and its threads have ended. It never fails."""
        self.before_close: list[Callable[[], Any]] = []
        """Clean-up functions that are called in a thread before the connection is closed, in reverse order."""

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Call a blocking function in one of the threads. Cancelling the Deferred doesn't stop it.

        It fails with L{DriverError} after L{end}.
        """
        if self._ended:
            return fail(self._closed_error())
        if not self._pool.started:
            self._pool.start()
        return deferToThreadPool(self._host.reactor, self._pool, function, *args)

    def _closed_error(self) -> DriverError:
        return DriverError(f"{self._uri}: the connection for {self._purpose} is closed.")

    def do_connection(self) -> Any:
        """
        Return the connection, and open it if necessary; blocks.

        @return: C{libvirt.virConnect}.
        @raise DriverError: it can't be opened. Never L{Unreachable}: the node's own connection detects a lost host.
        """
        with self._opening:
            if not self._ended and (self._connection is None or self._connection.isAlive() != 1):
                try:
                    self._connection = do_open(self._uri, self._log_in, self._keepalive)
                except libvirt.libvirtError as error:
                    words = str(error.get_error_message() or error).rstrip(". ")
                    raise DriverError(f"{self._uri}: no connection for {self._purpose}: {words}.") from None
                except Unreachable as error:
                    raise DriverError(str(error)) from None
            if self._ended:  # perhaps ended meanwhile; then the new connection is closed after this call
                raise self._closed_error()
            return self._connection

    def end(self) -> None:
        """Close the connection and end the threads, after the calls in progress. A repetition does nothing."""
        if self._ended:
            return
        self._ended = True
        closing: Deferred[None] = succeed(None)
        if self._pool.started:
            closing = deferToThreadPool(self._host.reactor, self._pool, self._do_close)
        closing.addErrback(self._failed).addCallback(self._closed)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("Closing a connection for {purpose} failed", failure, purpose=self._purpose)

    def _closed(self, _done: None) -> None:
        for _ in self._pool.threads:
            self._pool.stopAWorker()
        self.over.callback(None)

    def _do_close(self) -> None:
        while self.before_close:
            with suppress(libvirt.libvirtError):  # it no longer exists, or its connection is lost
                self.before_close.pop()()
        with self._opening, suppress(libvirt.libvirtError):
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
