"""The job object that the body of a task gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from fluidvm.auth.sessions import Session, Sessions
from fluidvm.driver import DomainInfo, DomainState, IConnection, NoSuchThing
from fluidvm.driver.loader import DriverLoader
from fluidvm.engine.claims import Holding, Key
from fluidvm.engine.slots import Slots
from fluidvm.images.files import ImageFiles
from fluidvm.images.uploads import Uploads
from fluidvm.inventory.inventory import Inventory, Write
from fluidvm.inventory.ledger import of_mac, of_node, of_user
from fluidvm.inventory.quota import check_total, plan_of
from fluidvm.model.faults import Conflict, NotFound
from fluidvm.model.objects import User
from fluidvm.nodes.nodes import Nodes
from fluidvm.nodes.watch import Ability
from fluidvm.store.objects import Change

T = TypeVar("T")
POLL = 0.25
"""Seconds between two checks of a domain's state."""


@dataclass(frozen=True)
class Resources:
    """The server's objects that tasks need. C{placement}: the strategy by which compute nodes are chosen."""

    clock: IReactorTime
    wall_clock: Callable[[], float]
    inventory: Inventory
    nodes: Nodes
    drivers: DriverLoader
    sessions: Sessions
    images: ImageFiles
    uploads: Uploads
    placement: str = "spread"


class Job:
    """
    One running task.

    @ivar target: the id of the object that the task acts on.
    @ivar actor: the id of the user who committed it.
    @ivar session: the session that committed it; C{None} if the server has restarted since, which ends all sessions.
    @ivar memo: data that the body stores for its recovery after a crash.
    """

    def __init__(
        self,
        resources: Resources,
        target: int,
        actor: int,
        memo: dict[str, Any],
        save_memo: Callable[[dict[str, Any]], Write],
        on_progress: Callable[[int], None],
        on_status: Callable[[str], None],
        slots: Slots,
        key: Hashable,
        holding: Holding | None = None,
        session: Session | None = None,
    ) -> None:
        self.target = target
        self.actor = actor
        self.session = session
        self.memo = memo
        self.clock = resources.clock
        self.wall_clock = resources.wall_clock
        self.inventory = resources.inventory
        self.nodes = resources.nodes
        self.drivers = resources.drivers
        self.sessions = resources.sessions
        self.placement = resources.placement
        self.images = resources.images
        self.uploads = resources.uploads
        self.progress = on_progress
        self.status = on_status
        self._save_memo = save_memo
        self._facts: list[Change] = []
        self._key = key
        self._slots = slots
        self._holding = holding
        self._slot: int | None = None
        self._cancelled = False
        self._interruptible: Deferred[Any] | None = None
        self._leavable = False

    def put(self, *facts: Change) -> None:
        """
        Record changes of objects.

        They are stored in one transaction with the task's outcome, even if it fails. So record a change only after it has
        happened.
        """
        self._facts.extend(facts)

    def take_facts(self) -> list[Change]:
        """Remove and return the changes that are recorded but not stored."""
        facts, self._facts = self._facts, []
        return facts

    async def flush(self) -> None:
        """Store the recorded changes and the memo now. Call this before the hypervisor is asked for the next change."""
        await self.inventory.settle(self.take_facts(), [self._save_memo(self.memo)])

    async def reserve(self, owner: int, **asked: int) -> None:
        """
        Reserve what the task will use of a user's resource plan, until the task has ended or L{unreserve} is called.

        The reservation is durable before this returns: even after a crash, no other task can use it before this one ends.

        @param asked: the additional amount for each limit.
        @raise QuotaExceeded: the plan doesn't allow it.
        """
        wanted = {limit: amount for limit, amount in asked.items() if amount > 0}
        if not wanted or self.memo.get("reserved") == [owner, wanted]:
            return  # nothing to reserve, or reserved before the server died
        self.inventory.ledger.release(self._key)
        check_total(self.inventory, owner, wanted)
        self.inventory.ledger.reserve(self._key, of_user(owner), wanted)
        if plan_of(self.inventory, owner) is not None:
            self.memo["reserved"] = [owner, wanted]
            await self.flush()

    def reserve_for(self, owner: int, **asked: int) -> None:
        """As L{reserve}, but not durable: for changes that the next L{flush} stores. Call L{unreserve} after it."""
        check_total(self.inventory, owner, asked)
        self.inventory.ledger.reserve(self._key, of_user(owner), asked)

    def reserve_on(self, node: int, **asked: int) -> None:
        """Reserve amounts on a compute node for changes that the next L{flush} stores. Call L{unreserve} after it."""
        self.inventory.ledger.reserve(self._key, of_node(node), asked)

    def reserve_mac(self, mac: str) -> bool:
        """Reserve a MAC address for a VM that the next L{flush} stores. @return: whether the address was free."""
        account = of_mac(mac)
        if self.inventory.ledger.taken(account, "interfaces"):
            return False
        self.inventory.ledger.reserve(self._key, account, {"interfaces": 1})
        return True

    def unreserve(self) -> None:
        """Release all reservations, because they are in use now or not needed any more."""
        self.inventory.ledger.release(self._key)

    def user(self) -> User:
        """
        Return the user who committed the task.

        @raise NotFound: the user was deleted.
        """
        return self.inventory.get(User, self.actor)

    @overload
    async def connection(self, node: int) -> IConnection: ...

    @overload
    async def connection(self, node: int, ability: type[Ability]) -> Ability: ...

    async def connection(self, node: int, ability: Any = IConnection) -> Any:
        """
        Return a compute node's connection. Waits while the node is connecting, and for a slot on the node.

        @param ability: the interface that the connection must provide.
        @raise Unavailable: the node isn't online.
        @raise Unsupported: the node's driver doesn't have the ability.
        @raise Conflict: a client cancelled the task while it waited for a slot.
        """
        connection = await self.nodes.connection(node, ability)
        if self._slot is None:
            # The task hasn't used the node yet, so it can be cancelled while it waits for a slot.
            await self.interruptible(self._slots.take(node))
            self._slot = node
        return connection

    @property
    def cancelled(self) -> bool:
        """Whether a client has cancelled the task, which then must end as soon as possible."""
        return self._cancelled

    def leavable(self, can: bool = True) -> None:
        """Set whether the task can be cancelled. While it can, the body checks L{cancelled} regularly, and at the end."""
        self._leavable = can

    async def hold(self, *keys: Key) -> None:
        """
        Claim further objects in addition to those that the task names. They replace those of an earlier call, durably.

        This releases all reservations and the slot on a compute node.

        @raise Conflict: a client cancelled the task while it waited for the objects.
        """
        self.release()
        self.memo["holds"] = [list(key) for key in keys]
        if self._holding is not None:
            await self.interruptible(Deferred.fromCoroutine(self._holding.take()))
        await self.flush()

    def release(self) -> None:
        """Release the slot on the compute node and all reservations."""
        self.unreserve()
        if self._slot is not None:
            self._slots.release(self._slot)
            self._slot = None

    def cancel(self) -> bool:
        """
        Cancel the task, if its current operation can be cancelled.

        @return: whether it is cancelled; otherwise it continues.
        """
        if self._cancelled or (self._interruptible is None and not self._leavable):
            return False
        self._cancelled = True
        if self._interruptible is not None:
            self._interruptible.cancel()
        return True

    async def interruptible(self, work: Deferred[T]) -> T:
        """
        Wait for an operation that can be cancelled. A cancelled operation must stop and leave nothing behind.

        @raise Conflict: a client cancelled the task.
        """
        self._interruptible = work
        if self._cancelled:
            work.cancel()
        try:
            return await work
        except CancelledError:
            if self._cancelled:
                raise Conflict("cancelled") from None
            raise
        finally:
            self._interruptible = None

    async def pause(self, seconds: float) -> None:
        """Wait. @raise Conflict: a client cancelled the task."""
        await self.interruptible(deferLater(self.clock, seconds, lambda: None))

    async def domain(self, node: int, uuid: str) -> DomainInfo:
        """
        Get a domain's current state from its compute node.

        @raise NotFound: the domain doesn't exist any more.
        """
        try:
            info: DomainInfo = await (await self.connection(node)).get_domain(uuid)
        except NoSuchThing:
            vm = self.inventory.vm_of(uuid)
            called = f"Domain {uuid}" if vm is None else f"VM {vm.name}"
            raise NotFound(f"{called} is gone from its compute node.") from None
        return info

    async def until_state(
        self,
        node: int,
        uuid: str,
        state: DomainState,
        timeout: float,
        otherwise: str,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """
        Wait until a domain is in a state. The task can be cancelled meanwhile.

        @param timeout: in seconds.
        @param otherwise: the text of the fault after the timeout.
        @param meanwhile: called after each check that finds the domain in another state.
        @raise Conflict: the domain isn't in the state in time, or a client cancelled the task.
        """
        deadline = self.clock.seconds() + timeout
        self._leavable = True  # also during a check, which itself isn't cancelled
        try:
            while (await self.domain(node, uuid)).state is not state:
                left = deadline - self.clock.seconds()
                if self._cancelled:
                    raise Conflict("cancelled")
                if left <= 0:
                    raise Conflict(otherwise)
                self.progress(int(100 * (1 - left / timeout)))
                if meanwhile is not None:
                    await meanwhile()
                await self.pause(min(POLL, left))
        finally:
            self._leavable = False
