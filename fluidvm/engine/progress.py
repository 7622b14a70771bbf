"""The progress of a task. It is stored before it is reported, so it never decreases, not even across a restart."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from fluidvm.engine.context import Task
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.faults import Unavailable
from fluidvm.store import contexts as stored

INTERVAL = 0.5
"""Minimum number of seconds between two stored values; shorter tasks store none."""


class Progress:
    """
    The progress of one task.

    @param context: the execution context's number.
    @param place: the task's index in the context, from 0.
    """

    def __init__(self, inventory: Inventory, clock: IReactorTime, context: int, place: int, task: Task) -> None:
        self._inventory = inventory
        self._clock = clock
        self._context = context
        self._place = place
        self._task = task
        self._last = clock.seconds()
        self._storing = False

    def tell(self, percentage: int) -> None:
        """Report a value in percent. It shows when it is stored; values that follow too closely are ignored."""
        wanted = min(99, int(percentage))
        now = self._clock.seconds()
        if wanted <= self._task.progress or self._storing or self._task.ending or now - self._last < INTERVAL:
            return
        self._last, self._storing = now, True
        storing = self._inventory.write(stored.save_task, self._context, self._place, {"progress": wanted})
        storing.addCallbacks(self._stored, self._failed, (wanted,))

    def _stored(self, result: None, wanted: int) -> None:
        self._storing = False
        self._task.progress = max(self._task.progress, wanted)

    def _failed(self, failure: Failure) -> None:
        self._storing = False
        failure.trap(Unavailable)  # the next value may be stored
