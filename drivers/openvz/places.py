"""The few places for commands that a connection to an OpenVZ node has, and who may have how many of them."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, DeferredSemaphore, TimeoutError
from twisted.internet.interfaces import IReactorTime

from fluidvm.driver import DriverError


class Places:
    """
    Places that commands take, in the order in which they ask.

    @param count: how many there are.
    """

    def __init__(self, clock: IReactorTime, count: int) -> None:
        self._clock = clock
        # A command that leaves N places to others takes one of the N-th as well, of which there are N less.
        self._places = [DeferredSemaphore(count - kept) for kept in range(count)]

    async def take(self, subject: str, keep: int, timeout: float) -> None:
        """
        Take a place.

        @param subject: what an error's sentence begins with.
        @param keep: how many places are left to others.
        @param timeout: seconds to wait for one.
        @raise DriverError: there was none within the time-out. That says nothing about the node.
        """
        taken: list[DeferredSemaphore] = []
        until = self._clock.seconds() + timeout
        try:
            for place in self._places[keep::-1]:
                # Cancelling it, and so its time-out, takes it out of the queue.
                await place.acquire().addTimeout(max(0.0, until - self._clock.seconds()), self._clock)
                taken.append(place)
        except (TimeoutError, CancelledError) as error:
            for place in taken:
                place.release()
            if isinstance(error, CancelledError):
                raise
            words = f"{subject} had to wait for other commands for {timeout:g} s; try again later."
            raise DriverError(words) from None

    def give_back(self, keep: int) -> None:
        """Give a place back. @param keep: as it was taken."""
        for place in self._places[: keep + 1]:
            place.release()
