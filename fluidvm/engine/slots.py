"""How many tasks have a compute node at work at once."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, fail


class Slots:
    """
    Bounded places per compute node, given in the order in which they are asked for.

    Taken after all claims and held to the task's end: who holds one waits for nobody who lacks one.

    @param most: per node.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._nodes: dict[int, DeferredSemaphore] = {}
        self._closed = False

    def take(self, node: int) -> Deferred[DeferredSemaphore]:
        """Wait for a place on a node; cancelling gives the wait up."""
        if self._closed:
            return fail(CancelledError())
        return self._nodes.setdefault(node, DeferredSemaphore(self._most)).acquire()

    def release(self, node: int) -> None:
        """Give a place back."""
        self._nodes[node].release()

    def close(self) -> None:
        """Give no further place: the waits for one end with C{CancelledError}."""
        self._closed = True
        for node in self._nodes.values():
            for waiting in list(node.waiting):
                waiting.cancel()
