"""What the store's tests share: a reactor with its own time, and functions that write and read."""

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
    """The time of a store under test: turned by hand; its threads are real."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any) -> None:
        """As the reactor does."""
        reactor.callFromThread(callable, *args)  # type: ignore[attr-defined]


class StoreCase(TestCase):
    """Tests with a store, which is closed after each."""

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
        """A store that isn't open yet."""
        return Database(url, self.clock, LIMIT, self.displaced.append)

    def open(self, url: str) -> Database:
        """A store."""
        database = self.make(url)
        database.open()
        self.opened.append(database)
        return database

    async def turn(self, seconds: float = 0.0) -> None:
        """Turn the clock, and let threads come in between."""
        self.clock.advance(seconds)
        await deferLater(reactor, 0.005, lambda: None)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for threads, at most until trial's time-out."""
        while not condition():
            await self.turn()

    async def in_time(self, condition: Callable[[], Any]) -> None:
        """As L{until}, and turn the clock while the store has nothing to do: what it does takes its own time."""
        while not condition():
            self.assertEqual(self.displaced, [])
            await self.turn(0.0 if any(database.waits() for database in self.opened) else TICK)

    async def overdue(self) -> None:
        """Turn the clock until what hangs has taken too long."""
        for _ in range(int(LIMIT / TICK) + 2):
            await self.turn(TICK)

    async def idle(self) -> None:
        """Turn the clock until the store has looked at its database, though nobody asks for anything."""
        for _ in range(int(IDLE / TICK) + 1):
            await self.turn(TICK)
        await self.until(lambda: not any(database.waits() for database in self.opened))

    def outcome(self, done: Deferred[Any]) -> list[Any]:
        """What comes of something, once it does."""
        found: list[Any] = []
        done.addBoth(found.append)
        return found
