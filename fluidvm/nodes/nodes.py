"""All watched compute nodes, and the one place that checks whether a node has an ability."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, overload

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool

from fluidvm.driver import (
    IConnection,
    IDisks,
    Interface,
)
from fluidvm.driver.loader import DriverLoader
from fluidvm.inventory.inventory import Inventory, missing
from fluidvm.model.faults import Unavailable, Unsupported
from fluidvm.model.objects import ComputeNode
from fluidvm.nodes.host import Host
from fluidvm.nodes.reconcile import Busy
from fluidvm.nodes.watch import Ability, NodeWatch, Policy, offline


class Nodes:
    """
    All watched nodes.

    @param reactor: the real one, for threads.
    @param clock: for timers.
    @param state_dir: the directory in which the driver of each node may have its own directory.
    @param policy: the polling interval and the timeout.
    """

    def __init__(
        self, reactor: Any, clock: IReactorTime, drivers: DriverLoader, inventory: Inventory, state_dir: Path, policy: Policy
    ) -> None:
        self._policy = policy
        self._reactor = reactor
        self._clock = clock
        self._drivers = drivers
        self._inventory = inventory
        self._state_dir = state_dir
        self._watches: dict[int, NodeWatch] = {}
        self.busy: Busy = lambda type, id: False
        """Tells whether a task has claimed an object. Set by the server."""

    def start(self) -> None:
        """Watch every node of the inventory."""
        for node in self._inventory.all(ComputeNode):
            self.watch(node)

    def watch(self, node: ComputeNode) -> Deferred[None]:
        """Watch a new node. Fires when the first attempt to connect has succeeded or failed."""
        if node.id in self._watches:  # by an interrupted run of the same task
            return self._watches[node.id].settled()
        host = Host(self._reactor, self._clock, node.name, self._state_dir / f"node-{node.id}")
        watch = NodeWatch(node, self._drivers, self._inventory, host, lambda type, id: self.busy(type, id), self._policy)
        self._watches[node.id] = watch
        watch.start()
        return watch.settled()

    async def unwatch(self, id: int) -> None:
        """Stop watching a node that was removed, and delete the directory of its driver."""
        watch = self._watches.pop(id, None)
        if watch is not None:
            await watch.stop()
        path, pool = self._state_dir / f"node-{id}", self._reactor.getThreadPool()
        await deferToThreadPool(self._reactor, pool, shutil.rmtree, path, ignore_errors=True)

    async def refresh(self, id: int) -> None:
        """
        List a node now.

        @raise NotFound: there is no such node.
        @raise Unavailable: the node can't be reached.
        """
        watch = self._watches.get(id)
        if watch is None:
            raise missing("compute_node", id)
        await watch.refresh()

    async def stop(self) -> None:
        """Stop watching all nodes."""
        watches, self._watches = self._watches, {}
        for watch in watches.values():
            await watch.stop()

    @overload
    async def connection(self, id: int) -> IConnection: ...

    @overload
    async def connection(self, id: int, ability: type[Ability]) -> Ability: ...

    async def connection(self, id: int, ability: Any = IConnection) -> Any:
        """
        Return the connection of a node. Waits while the node is connecting.

        @param ability: the interface that the connection must provide.
        @raise NotFound: there is no such node.
        @raise Unavailable: the node is offline.
        @raise Unsupported: the node does not have the ability. Raised in this place only.
        """
        watch = self._watches.get(id)
        if watch is None:
            raise missing("compute_node", id)
        await watch.settled()
        return self.check(id, ability)

    async def settled(self) -> bool:
        """Wait until no node is connecting. Returns whether one was."""
        waiting = [settling for settling in (watch.settled() for watch in self._watches.values()) if not settling.called]
        for settling in waiting:
            await settling
        return bool(waiting)

    def check(self, id: int, ability: type[Ability]) -> Ability:
        """Like L{connection}, but without waiting: a node that is connecting counts as offline."""
        watch = self._watches.get(id)
        if watch is None:
            raise missing("compute_node", id)
        node = self._inventory.get(ComputeNode, id)
        if watch.connection is None:
            raise offline(node)
        interface: Any = ability
        if not interface.providedBy(watch.connection):
            raise Unsupported(
                f"Compute node {node.name}: driver {node.driver} does not support this (ability {interface.__name__[1:]})."
            )
        return watch.connection  # type: ignore[no-any-return]

    def provides(self, id: int, ability: type[Interface]) -> bool:
        """Tell whether a node is online and its connection has an ability."""
        watch = self._watches.get(id)
        return watch is not None and watch.connection is not None and bool(ability.providedBy(watch.connection))

    def pool_space(self, id: int, pool: str) -> int | None:
        """Return the free MiB of a node's storage pool when it was last listed; C{None} if unknown."""
        watch = self._watches.get(id)
        return None if watch is None else watch.storage.pools.get(pool)

    def formats(self, id: int) -> tuple[str, ...]:
        """
        Return the disk formats of a node, the default one first.

        @raise Unavailable: the node is offline.
        """
        watch = self._watches.get(id)
        if watch is None or not IDisks.providedBy(watch.connection):
            raise Unavailable(f"Compute node {id} went offline.")
        formats: tuple[str, ...] = watch.connection.formats
        return formats
