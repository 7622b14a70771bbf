"""Lists the snapshots of a node's VMs and disks on connect and refresh, to find those that others have created."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from fluidvm.driver import DriverError, ISnapshots, IVolumeSnapshots, NoSuchThing
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.faults import Unavailable
from fluidvm.model.objects import VM, Disk
from fluidvm.nodes.reconcile import Busy, snapshot_records
from fluidvm.store.objects import Update

IN_ONE_TURN = 50
"""VMs and disks that are listed before the reactor does other work."""


class NodeSnapshots:
    """The snapshots of one node's VMs and disks."""

    _log = Logger()

    def __init__(self, inventory: Inventory, node: int, clock: IReactorTime, busy: Busy) -> None:
        self._inventory = inventory
        self._node = node
        self._clock = clock
        self._busy = busy
        self._connection: Any = None

    def follow(self, connection: Any) -> None:
        """List the snapshots now, as long as this connection is the current one."""
        self._connection = connection
        looking = Deferred.fromCoroutine(self.look(connection))
        looking.addErrback(self._report)

    def stop(self) -> None:
        """Stop listing."""
        self._connection = None

    def _report(self, failure: Any) -> None:
        if failure.check(DriverError, Unavailable) is None:
            self._log.failure("Listing the snapshots of compute node {node} failed", failure, node=self._node)

    async def look(self, connection: Any) -> None:
        """
        List the snapshots of the node's VMs and disks, and store the changes.

        @raise DriverError: the node can't list them.
        """
        things: list[VM | Disk] = []
        if ISnapshots.providedBy(connection):
            things += self._inventory.vms_on(self._node)
        if IVolumeSnapshots.providedBy(connection):
            things += self._inventory.disks_on(self._node)
        for number, before in enumerate(things, 1):
            if number % IN_ONE_TURN == 0:
                turn: Deferred[None] = deferLater(self._clock, 0, lambda: None)
                await turn
            if connection is not self._connection:
                return
            if before.state in ("creating", "missing") or self._is_busy(before):
                continue
            try:
                if isinstance(before, VM):
                    told = await connection.list_snapshots(before.uuid)
                else:
                    told = await connection.list_volume_snapshots(before.pool, before.volume)
            except NoSuchThing:
                continue
            # What a task has changed in the meantime is newer than this listing.
            now: VM | Disk | None = self._inventory.find(type(before), before.id)
            if now is None or now.snapshots is not before.snapshots or self._is_busy(now):
                continue
            kept = snapshot_records(self._inventory, now, told)
            if kept != now.snapshots:
                await self._inventory.commit([Update(now.TYPE, now.id, {"snapshots": kept})])

    def _is_busy(self, thing: VM | Disk) -> bool:
        return self._busy(thing.TYPE, thing.id)
