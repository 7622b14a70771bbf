"""Limits the number of parallel commands on a connection to an OpenVZ node, and reserves slots for short ones."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, DeferredSemaphore, TimeoutError
from twisted.internet.interfaces import IReactorTime

from fluidvm.driver import DriverError


class Places:
    """
    Slots for commands, which are given in the order of the requests.

    @param count: the number of slots.
    """

    def __init__(self, clock: IReactorTime, count: int) -> None:
        self._clock = clock
        # A command that leaves N slots to others also takes the N-th semaphore, which has N slots less.
        self._places = [DeferredSemaphore(count - kept) for kept in range(count)]

    async def take(self, subject: str, keep: int, timeout: float) -> None:
        """
        Take a slot.

        @param subject: what an error's sentence begins with.
        @param keep: how many slots are left to others.
        @param timeout: seconds to wait for a slot.
        @raise DriverError: none was free within the time-out. That says nothing about the node.
        """
        taken: list[DeferredSemaphore] = []
        until = self._clock.seconds() + timeout
        try:
            for place in self._places[keep::-1]:
                # Cancelling it, which the time-out also does, removes it from the queue.
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
        """Return a slot. @param keep: as when it was taken."""
        for place in self._places[: keep + 1]:
            place.release()
