"""Limits the memory of all connections together: for incoming requests, and for answers that clients have not read yet."""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from fluidvm.model.faults import Unavailable
from fluidvm.wire.bounds import Bounds

TIMEOUT = 30.0
"""Seconds that a large answer waits for room."""
_FULL = (
    "The server holds too many large answers that clients haven't read: try again later, or use limit to get less at once."
)


class Room:
    """
    Counts bytes. One address can have at most half of the room, so that no client blocks the others.

    @ivar held: the bytes that are counted now.
    @param most: the limit in bytes.
    """

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most = most
        self._by_address: Counter[str] = Counter()

    def has_room(self, address: str, size: int) -> bool:
        """Tell whether there is room for a number of bytes of an address now."""
        return self.held + size <= self._most and self._by_address[address] + size <= self._most // 2

    def take(self, address: str, size: int) -> None:
        """Add bytes, whether there is room or not."""
        self.held += size
        self._by_address[address] += size

    def give(self, address: str, size: int) -> None:
        """Subtract bytes."""
        self.held -= size
        self._by_address[address] -= size
        if not self._by_address[address]:
            del self._by_address[address]


class Unsent(Room):
    """
    Counts the bytes of large answers. Answers that do not fit wait, first come, first served.

    @ivar waiting: the bytes of the answers that wait.
    @param clock: limits the waiting time.
    @param most: the limit in bytes; as many bytes may wait.
    """

    def __init__(self, clock: IReactorTime, most: int = Bounds.unsent) -> None:
        super().__init__(most)
        self.waiting = 0
        self._clock = clock
        self._waiters: dict[Deferred[None], tuple[str, int]] = {}

    def give(self, address: str, size: int) -> None:
        """Subtract bytes that have been sent, or never will be. Waiting answers may have room now."""
        super().give(address, size)
        for waiter, (wants, amount) in list(self._waiters.items()):
            if self.held + amount > self._most:
                return
            if self.has_room(wants, amount) and waiter in self._waiters:
                waiter.callback(None)

    async def room(self, address: str, size: int, patience: float = TIMEOUT) -> None:
        """
        Wait for room.

        @param patience: the maximum waiting time in seconds.
        @raise Unavailable: there is no room in time, or too many bytes are waiting already.
        """
        if self.has_room(address, size):
            return
        if patience <= 0 or self.waiting + size > self._most:
            raise Unavailable(_FULL)
        waiter: Deferred[None] = Deferred()
        self._waiters[waiter] = address, size
        self.waiting += size
        ending = self._clock.callLater(patience, waiter.errback, Unavailable(_FULL))
        try:
            await waiter
        finally:
            del self._waiters[waiter]
            self.waiting -= size
            if ending.active():
                ending.cancel()
