"""Clients that wait for execution contexts: no thread and no timer each."""

from __future__ import annotations

from math import ceil

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

GRAIN = 0.25
"""Seconds; all who are to give up within one grain share a timer."""


class Waiters:
    """
    Who waits for which execution context, and until when.

    @param clock: the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[int, dict[Deferred[None], None]] = {}
        self._ends: dict[int, list[tuple[int, Deferred[None]]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def wait(self, context: int, seconds: float) -> Deferred[None]:
        """Fires when a context is woken, or after C{seconds}, rounded up to the grain."""
        waiter: Deferred[None] = Deferred(lambda _: self._leave(context, waiter))
        self._waiting.setdefault(context, {})[waiter] = None
        tick = ceil((self._clock.seconds() + seconds) / GRAIN)
        if tick not in self._ends:
            self._ends[tick] = []
            self._clock.callLater(max(0.0, tick * GRAIN - self._clock.seconds()), self._give_up, tick)
        self._ends[tick].append((context, waiter))
        return waiter

    def wake(self, context: int) -> None:
        """Answer all who wait for a context."""
        for waiter in self._waiting.pop(context, {}):
            waiter.callback(None)

    def wake_all(self) -> None:
        """Answer everyone."""
        for context in list(self._waiting):
            self.wake(context)

    def _give_up(self, tick: int) -> None:
        for context, waiter in self._ends.pop(tick):
            if waiter in self._waiting.get(context, {}):
                self._leave(context, waiter)
                waiter.callback(None)

    def _leave(self, context: int, waiter: Deferred[None]) -> None:
        waiting = self._waiting[context]
        del waiting[waiter]
        if not waiting:
            del self._waiting[context]
