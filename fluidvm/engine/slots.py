"""How many tasks have a compute node at work at once."""

from __future__ import annotations

from twisted.internet.defer import DeferredSemaphore


class Slots:
    """
    Bounded places per compute node, given in the order in which they are asked for.

    Taken after all claims and held to the task's end: who holds one waits for nobody who lacks one.

    @param most: per node.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._nodes: dict[int, DeferredSemaphore] = {}

    async def take(self, node: int) -> None:
        """Wait for a place on a node."""
        await self._nodes.setdefault(node, DeferredSemaphore(self._most)).acquire()

    def release(self, node: int) -> None:
        """Give a place back."""
        self._nodes[node].release()
