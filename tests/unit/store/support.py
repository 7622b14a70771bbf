"""What tests of the store share: a reactor with a manual clock, and a test case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from fluidvm.store.database import IDLE, TICK, Database

LIMIT = 20.0


class Time(Clock):
    """A manual clock for a store under test. Its threads are real."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any) -> None:
        """Like the reactor."""
        reactor.callFromThread(callable, *args)  # type: ignore[attr-defined]


class StoreCase(TestCase):
    """A test case for stores, which are closed after each test."""

    timeout = 120

    def setUp(self) -> None:
        self.clock = Time()
        self.displaced: list[str] = []
        self.opened: list[Database] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        for database in self.opened:
            closing = database.close()
            while not closing.called:
                await self.turn()

    def make(self, url: str) -> Database:
        """Make a store, without opening it."""
        return Database(url, self.clock, LIMIT, self.displaced.append)

    def open(self, url: str) -> Database:
        """Open a store."""
        database = self.make(url)
        database.open()
        self.opened.append(database)
        return database

    async def turn(self, seconds: float = 0.0) -> None:
        """Advance the clock, and let threads run."""
        self.clock.advance(seconds)
        await deferLater(reactor, 0.005, lambda: None)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for threads, at most until trial's timeout."""
        while not condition():
            await self.turn()

    async def in_time(self, condition: Callable[[], Any]) -> None:
        """Like L{until}, but advance the clock while the store has no work. Its work takes real time."""
        while not condition():
            self.assertEqual(self.displaced, [])
            await self.turn(0.0 if any(database.waits() for database in self.opened) else TICK)

    async def overdue(self) -> None:
        """Advance the clock until hanging work has timed out."""
        for _ in range(int(LIMIT / TICK) + 2):
            await self.turn(TICK)

    async def idle(self) -> None:
        """Advance the clock until the store has checked its database while idle."""
        for _ in range(int(IDLE / TICK) + 1):
            await self.turn(TICK)
        await self.until(lambda: not any(database.waits() for database in self.opened))

    def outcome(self, done: Deferred[Any]) -> list[Any]:
        """Return a list that gets the result once it is known."""
        found: list[Any] = []
        done.addBoth(found.append)
        return found
