"""What a driver gets for one compute node: separate threads, which may hang without affecting other nodes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")
MOST_LONG = 4
"""Maximum number of long calls of a node at the same time."""
MOST_ABANDONED = 4
"""Maximum number of hanging threads of a node. With more, no new thread is started for it."""


class Host:
    """What a driver gets for one node. Provides L{fluidvm.driver.DriverHost}."""

    def __init__(self, reactor: Any, clock: IReactorTime, node: str, state_dir: Path) -> None:
        self.clock = clock
        self.node = node
        self.state_dir = state_dir
        self.reactor = reactor
        self._pool = self._new_pool(1)
        self._long = self._new_pool(MOST_LONG)
        self._abandoned: list[ThreadPool] = []

    def _new_pool(self, most: int) -> ThreadPool:
        pool = ThreadPool(0, most, f"node {self.node}")
        # A call that hangs must not keep the server from ending.
        pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
        return pool

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """Call a blocking function in the node's thread."""
        if not self._pool.started:
            self._pool.start()
        return deferToThreadPool(self.reactor, self._pool, function, *args)

    def run_long(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """Call a blocking function that may take minutes, in one of the node's threads for long calls."""
        if not self._long.started:
            self._long.start()
        return deferToThreadPool(self.reactor, self._long, function, *args)

    def call_in_reactor(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in the reactor's thread."""
        self.reactor.callFromThread(function, *args)

    def abandon(self) -> None:
        """Run further calls in a new thread, because the current one hangs. That one ends once its call returns."""
        self._abandoned = [pool for pool in self._abandoned if pool.threads]
        if self._pool.started and len(self._abandoned) < MOST_ABANDONED:
            _end(self._pool)
            self._abandoned.append(self._pool)
            self._pool = self._new_pool(1)

    def stop(self) -> None:
        """Stop the threads, without waiting for a call that hangs."""
        _end(self._pool)
        _end(self._long)


def _end(pool: ThreadPool) -> None:
    if pool.started:
        for _ in pool.threads:
            pool.stopAWorker()
