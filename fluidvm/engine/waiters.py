"""Clients that wait for execution contexts, without a thread or a timer for each."""

from __future__ import annotations

from math import ceil

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

GRAIN = 0.25
"""Seconds; all clients whose waits end within one grain share a timer."""


class _End:
    """The clients whose waits end at the same time, each with the context that it waits for."""

    def __init__(self, timer: IDelayedCall) -> None:
        self.timer = timer
        self.waiting: dict[Deferred[None], int] = {}


class Waiters:
    """
    All waiting clients, with the execution context that each waits for, and the end of its wait.

    @param clock: the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[int, dict[Deferred[None], int]] = {}
        self._ends: dict[int, _End] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def wait(self, context: int, seconds: float) -> Deferred[None]:
        """Return a Deferred that fires when L{wake} is called for a context, or after C{seconds} rounded up to the grain."""
        waiter: Deferred[None] = Deferred(lambda _: self._leave(context, waiter))
        now = self._clock.seconds()
        tick = ceil((now + seconds) / GRAIN)
        if tick not in self._ends:
            self._ends[tick] = _End(self._clock.callLater(max(0.0, tick * GRAIN - now), self._give_up, tick))
        self._ends[tick].waiting[waiter] = context
        self._waiting.setdefault(context, {})[waiter] = tick
        return waiter

    def wake(self, context: int) -> None:
        """Answer all clients that wait for a context."""
        for waiter in list(self._waiting.get(context, ())):
            self._leave(context, waiter)
            waiter.callback(None)

    def wake_all(self) -> None:
        """Answer all waiting clients."""
        for context in list(self._waiting):
            self.wake(context)

    def _give_up(self, tick: int) -> None:
        for waiter, context in list(self._ends[tick].waiting.items()):
            self._leave(context, waiter)
            waiter.callback(None)

    def _leave(self, context: int, waiter: Deferred[None]) -> None:
        waiting = self._waiting[context]
        tick = waiting.pop(waiter)
        if not waiting:
            del self._waiting[context]
        end = self._ends[tick]
        del end.waiting[waiter]
        if not end.waiting:
            del self._ends[tick]
            if end.timer.active():
                end.timer.cancel()
