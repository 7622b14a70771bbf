"""
Watches the connection to one compute node: connecting, online, offline.

What the hypervisor reports, in events or listings, is written to the store and the inventory.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from fluidvm.driver import (
    DomainState,
    DriverError,
    IEvents,
    Unreachable,
)
from fluidvm.driver.loader import BrokenDriver, DriverLoader, UnknownDriver
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.faults import Unavailable, sentence
from fluidvm.model.objects import ComputeNode, vm_state
from fluidvm.nodes.driver_words import Words
from fluidvm.nodes.host import Host
from fluidvm.nodes.reconcile import Busy, vm_differences
from fluidvm.nodes.snapshots import NodeSnapshots
from fluidvm.nodes.storage import NodeStorage
from fluidvm.nodes.timeouts import TimedConnection
from fluidvm.store.objects import Change, Update

T = TypeVar("T")
Ability = TypeVar("Ability")
"""An interface that a connection can provide."""
CONNECT_TIMEOUT = 30.0
CLOSE_TIMEOUT = 3.0
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
OURS = ("creating", "starting", "stopping", "migrating")
"""States that a running task has set: that task will store the outcome itself."""


@dataclass(frozen=True)
class Policy:
    """
    How nodes are watched.

    @ivar poll_interval: seconds between two listings of a node whose driver has no events.
    @ivar timeout: seconds that a verb may take without reporting progress.
    """

    poll_interval: float = 10.0
    timeout: float = 120.0


class NodeWatch:
    """
    Watches one node.

    @param busy: tells whether a task has claimed an object.
    @param policy: the polling interval and the timeout.
    """

    _log = Logger()

    def __init__(
        self,
        node: ComputeNode,
        drivers: DriverLoader,
        inventory: Inventory,
        host: Host,
        busy: Busy,
        policy: Policy,
    ) -> None:
        self._policy = policy
        self._id = node.id
        self._driver = node.driver
        self._address = node.address
        self._options = node.options
        self._drivers = drivers
        self._inventory = inventory
        self._host = host
        self._busy = busy
        self._connection: Any = None
        self._attempt: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._retry: IDelayedCall | None = None
        self._delay = FIRST_RETRY
        self._since = 0.0
        self.storage = NodeStorage(inventory, node.id, host.clock, busy)
        self._snapshots = NodeSnapshots(inventory, node.id, host.clock, busy)
        self._words = Words(inventory, node.id)
        self._stopped = False
        self._looks_later = False

    def start(self) -> None:
        """Start to connect."""
        self._attempt = Deferred.fromCoroutine(self._connect())
        self._attempt.addErrback(lambda failure: self._log.failure("Watching {node} failed", failure, node=self._host.node))

    async def stop(self) -> None:
        """Disconnect, and stop watching."""
        self._stopped = True
        self.storage.stop()
        self._snapshots.stop()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(TimeoutError):  # a node that hangs must not keep the server from stopping
                await connection.close().addTimeout(CLOSE_TIMEOUT, self._host.clock)
        self._wake()
        self._host.stop()

    def settled(self) -> Deferred[None]:
        """Fires when the node is not connecting: at once, or when the current attempt ends."""
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        if self._retry is None and self._connection is None and not self._stopped:
            self._waiting.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    @property
    def connection(self) -> Any:
        """The connection; C{None} while there is none."""
        return self._connection

    async def _connect(self) -> None:
        self._retry = None
        connection = None
        try:
            driver = self._drivers.get(self._driver)
            opening = driver.connect(self._address, self._options, self._host)
            opened = await opening.addTimeout(CONNECT_TIMEOUT, self._host.clock)
            connection = TimedConnection(
                opened,
                self._host.clock,
                self._host.node,
                self._policy.timeout,
                lambda reason: self._hangs(connection, reason),
                self._words.told,
            )
            if not self._stopped:
                await self._welcome(connection)
                return
            reason = ""
        except CancelledError:
            return
        except TimeoutError:
            reason = f"no answer within {CONNECT_TIMEOUT:g} s"
            self._host.abandon()
        except (DriverError, UnknownDriver, BrokenDriver, Unavailable) as error:
            reason = str(error)
        except Exception as error:
            self._log.failure("Driver {driver} failed to connect to {node}", driver=self._driver, node=self._host.node)
            reason = f"driver {self._driver} failed: {error}"
        if connection is not None:
            self._connection = None
            await self._close(connection)
        await self._offline(reason)

    async def _close(self, connection: Any) -> None:
        try:
            await connection.close().addTimeout(CLOSE_TIMEOUT, self._host.clock)
        except (TimeoutError, CancelledError):
            self._host.abandon()

    async def _welcome(self, connection: Any) -> None:
        connection.on_lost(lambda reason: self._lost(connection, reason))
        if IEvents.providedBy(connection):
            # Before the listing, so that nothing that happens in between is missed.
            connection.subscribe(lambda uuid, state: self._event(connection, uuid, state))
        await self._look(connection)
        self._connection = connection
        self._since = self._host.clock.seconds()
        self._log.info("Compute node {node} is online", node=self._host.node)
        self.storage.follow(connection)
        self._snapshots.follow(connection)
        self._wake()
        if not IEvents.providedBy(connection):
            self._host.clock.callLater(self._policy.poll_interval, self._poll, connection)

    async def _look(self, connection: Any) -> None:
        """Read the host and its domains, and store the changes."""
        info = await connection.host_info()
        domains = await connection.list_domains()
        fields = {
            "state": "online",
            "reason": "",
            "vcpus": info.vcpus,
            "memory": info.memory,
            "driver_version": info.driver_version,
            "hypervisor_version": info.hypervisor_version,
        }
        changed = {key: value for key, value in fields.items() if getattr(self._node(), key) != value}
        changes: list[Change] = [Update("compute_node", self._id, changed)] if changed else []
        await self._inventory.commit([*changes, *vm_differences(self._inventory, self._id, domains, self._busy)])

    def _node(self) -> ComputeNode:
        return self._inventory.get(ComputeNode, self._id)

    async def refresh(self) -> None:
        """
        List the node now, or connect now.

        @raise Unavailable: the node can't be reached.
        @raise DriverError: its storage can't be listed.
        """
        if self._connection is not None:
            try:
                await self._look(self._connection)
                for look in (self.storage.look, self._snapshots.look):
                    if self._connection is not None:
                        await look(self._connection)
                return
            except Unreachable as error:
                self._lost(self._connection, str(error))
        elif self._retry is not None and self._retry.active():
            self._retry.cancel()
            self.start()
        await self.settled()
        if self._connection is None:
            raise offline(self._node())

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    async def _offline(self, reason: str) -> None:
        if self._stopped:
            return
        self._log.warn("Compute node {node} is offline: {reason}", node=self._host.node, reason=reason)
        self._retry = self._host.clock.callLater(self._delay, self.start)
        self._delay = min(LONGEST_RETRY, 2 * self._delay)
        changes: list[Change] = []
        node = self._inventory.find(ComputeNode, self._id)
        if node is not None and (node.state, node.reason) != ("offline", reason):
            changes.append(Update("compute_node", self._id, {"state": "offline", "reason": reason}))
        changes += [
            Update("vm", vm.id, vm_state("unknown"))
            for vm in self._inventory.vms_on(self._id)
            if vm.state not in (*OURS, "unknown")
        ]
        try:
            await self._inventory.commit(changes)
        finally:
            self._wake()

    def _lost(self, connection: Any, reason: str) -> None:
        if connection is self._connection:
            self._connection = None
            if self._host.clock.seconds() - self._since >= LONGEST_RETRY:
                self._delay = FIRST_RETRY  # the connection was stable
            self._background(self._offline(reason), "recording a lost connection")
            self._background(self._close(connection), "closing a lost connection")

    def _hangs(self, connection: Any, reason: str) -> None:
        self._host.abandon()
        self._lost(connection, reason)

    def _event(self, connection: Any, uuid: str, state: DomainState | None) -> None:
        if connection is not self._connection:
            return
        vm = self._inventory.vm_of(uuid)
        if vm is None or vm.compute_node != self._id:  # during a migration, the task stores where the VM is
            return
        if vm.state in OURS or (state is None and self._busy("vm", vm.id)):
            return
        shown = "missing" if state is None else str(state)
        if vm.state != shown:
            noting = self._inventory.commit([Update("vm", vm.id, vm_state(shown))])
            self._background(noting.addErrback(self._look_later, connection), "recording an event")

    def _look_later(self, failure: Any, connection: Any) -> Any:
        """Handle a failed write: the event is not repeated, so list the whole node later, when the store may be back."""
        if failure.check(Unavailable) and not self._looks_later:
            self._looks_later = True
            self._host.clock.callLater(self._policy.poll_interval, self._look_again, connection)
        return failure

    def _look_again(self, connection: Any) -> None:
        self._looks_later = False
        if connection is self._connection:
            looking = Deferred.fromCoroutine(self._look(connection))
            self._background(looking.addErrback(self._look_later, connection), "listing it again")

    def _poll(self, connection: Any) -> None:
        async def poll() -> None:
            try:
                domains = await connection.list_domains()
                if connection is self._connection:
                    await self._inventory.commit(vm_differences(self._inventory, self._id, domains, self._busy))
            finally:
                # Whether the node or the store failed, it may recover.
                if connection is self._connection:
                    self._host.clock.callLater(self._policy.poll_interval, self._poll, connection)

        if connection is self._connection:
            self._background(Deferred.fromCoroutine(poll()), "polling")

    def _background(self, work: Any, what: str) -> None:
        done = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        done.addErrback(self._report, what)

    def _report(self, failure: Any, what: str) -> None:
        if failure.check(DriverError, Unavailable) is None:
            self._log.failure("Compute node {node}: {what} failed", failure, node=self._host.node, what=what)


def offline(node: ComputeNode) -> Unavailable:
    """Make the fault for an offline compute node, with the reason, which may be a sentence."""
    return Unavailable(f"Compute node {node.name} is offline: {sentence(node.reason or 'connection lost')}")
