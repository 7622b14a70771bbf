"""Checks the storage of a node at intervals: the free space of its pools, and whether the disks still exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from fluidvm.driver import DriverError, IDisks, IVolumes, NoSuchThing, Volume
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.faults import Unavailable
from fluidvm.nodes.reconcile import Busy, comparable, disk_differences

INTERVAL = 60.0
"""Seconds between two checks."""


class NodeStorage:
    """
    One node's storage.

    @ivar pools: the free MiB of each storage pool when it was last listed.
    """

    _log = Logger()

    def __init__(self, inventory: Inventory, node: int, clock: IReactorTime, busy: Busy) -> None:
        self.pools: dict[str, int] = {}
        self._inventory = inventory
        self._node = node
        self._clock = clock
        self._busy = busy
        self._connection: Any = None
        self._next: IDelayedCall | None = None

    def follow(self, connection: Any) -> None:
        """Check now, and every minute as long as this connection is the current one."""
        self.stop()
        self._connection = connection
        self._turn(connection)

    def stop(self) -> None:
        """Stop checking."""
        self._connection = None
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _turn(self, connection: Any) -> None:
        def again(_: object) -> None:
            if connection is self._connection:
                self._next = self._clock.callLater(INTERVAL, self._turn, connection)

        looking = Deferred.fromCoroutine(self.look(connection))
        looking.addErrback(self._report)
        looking.addBoth(again)

    def _report(self, failure: Any) -> None:
        if failure.check(DriverError, Unavailable) is None:
            self._log.failure("Checking the storage of compute node {node} failed", failure, node=self._node)

    async def look(self, connection: Any) -> None:
        """
        Read the free space of the pools, and record which disks are gone, are back, or have another size.

        @raise DriverError: the node can't list its storage.
        """
        if IVolumes.providedBy(connection):
            self.pools = {pool.name: pool.free for pool in await connection.list_pools()}
        if not IDisks.providedBy(connection):
            return
        before = {disk.id: disk for disk in comparable(self._inventory, self._node, self._busy)}
        volumes: dict[str, Sequence[Volume]] = {}
        for pool in sorted({disk.pool for disk in before.values()}):
            try:
                formats = {disk.volume: disk.format for disk in before.values() if disk.pool == pool}
                volumes[pool] = await connection.list_volumes(pool, formats)
            except NoSuchThing:
                volumes[pool] = ()
        # A disk that a task has changed in the meantime is a different object now.
        same = [disk for disk in comparable(self._inventory, self._node, self._busy) if before.get(disk.id) is disk]
        await self._inventory.commit(disk_differences(same, volumes))
