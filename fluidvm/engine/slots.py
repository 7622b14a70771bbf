"""Limits the number of tasks that use a compute node at the same time."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, fail


class Slots:
    """
    A limited number of slots for each compute node, granted in the order of the requests.

    A task takes its slot after all its claims, and holds it until it ends. So a task with a slot never waits for a task
    without one.

    @param most: number of slots of each node.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._nodes: dict[int, DeferredSemaphore] = {}
        self._closed = False

    def take(self, node: int) -> Deferred[DeferredSemaphore]:
        """Wait for a slot on a node; the Deferred can be cancelled."""
        if self._closed:
            return fail(CancelledError())
        return self._nodes.setdefault(node, DeferredSemaphore(self._most)).acquire()

    def release(self, node: int) -> None:
        """Release a slot."""
        self._nodes[node].release()

    def close(self) -> None:
        """Grant no further slots: those who wait for one get C{CancelledError}."""
        self._closed = True
        for node in self._nodes.values():
            for waiting in list(node.waiting):
                waiting.cancel()
