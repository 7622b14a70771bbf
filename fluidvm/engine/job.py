"""What a task's body has in its hands."""

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
"""Seconds between two looks at a domain that is awaited."""


@dataclass(frozen=True)
class Resources:
    """What tasks work with: one of each per server. C{placement}: by which strategy nodes are chosen."""

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
    One task under way.

    @ivar target: the id of the object that the task acts on.
    @ivar actor: the id of the user who committed it.
    @ivar session: the session that committed it; C{None} once the server was started anew: sessions end with it.
    @ivar memo: what the body remembers durably, for its recovery.
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
        Note what has become true.

        It is stored with the task's outcome, good or bad, in one transaction: so note a thing after it is so.
        """
        self._facts.extend(facts)

    def take_facts(self) -> list[Change]:
        """Give what was noted and not stored, and forget it."""
        facts, self._facts = self._facts, []
        return facts

    async def flush(self) -> None:
        """Make what was noted durable now, and the memo with it: before the hypervisor is asked for something new."""
        await self.inventory.settle(self.take_facts(), [self._save_memo(self.memo)])

    async def reserve(self, owner: int, **asked: int) -> None:
        """
        Set aside what the task is about to take of a user's resource plan, until it has ended or L{unreserve} is called.

        It is durable before this returns: after a crash nobody else can take it before the task has ended.

        @param asked: by limit, how much more than now.
        @raise QuotaExceeded: it is more than the plan allows.
        """
        wanted = {limit: amount for limit, amount in asked.items() if amount > 0}
        if not wanted or self.memo.get("reserved") == [owner, wanted]:
            return  # nothing, or what was reserved before the server died
        self.inventory.ledger.release(self._key)
        check_total(self.inventory, owner, wanted)
        self.inventory.ledger.reserve(self._key, of_user(owner), wanted)
        if plan_of(self.inventory, owner) is not None:
            self.memo["reserved"] = [owner, wanted]
            await self.flush()

    def reserve_for(self, owner: int, **asked: int) -> None:
        """As L{reserve}, for what the next L{flush} makes true: call L{unreserve} after it."""
        check_total(self.inventory, owner, asked)
        self.inventory.ledger.reserve(self._key, of_user(owner), asked)

    def reserve_on(self, node: int, **asked: int) -> None:
        """Set aside what the next L{flush} puts on a compute node; L{unreserve} gives it back."""
        self.inventory.ledger.reserve(self._key, of_node(node), asked)

    def reserve_mac(self, mac: str) -> bool:
        """Set a network address aside, which the next L{flush} gives to a VM. @return: whether it was free."""
        account = of_mac(mac)
        if self.inventory.ledger.taken(account, "interfaces"):
            return False
        self.inventory.ledger.reserve(self._key, account, {"interfaces": 1})
        return True

    def unreserve(self) -> None:
        """What was reserved is in use now, or isn't needed."""
        self.inventory.ledger.release(self._key)

    def user(self) -> User:
        """
        Give the user who committed the task.

        @raise NotFound: it was deleted.
        """
        return self.inventory.get(User, self.actor)

    @overload
    async def connection(self, node: int) -> IConnection: ...

    @overload
    async def connection(self, node: int, ability: type[Ability]) -> Ability: ...

    async def connection(self, node: int, ability: Any = IConnection) -> Any:
        """
        Give a compute node's connection; waits while it is being made.

        @param ability: the interface that it must provide.
        @raise Unavailable: the node isn't online.
        @raise Unsupported: its hypervisor can't do it.
        @raise Conflict: a client cancelled the task while it waited for its turn on the node.
        """
        connection = await self.nodes.connection(node, ability)
        if self._slot is None:
            # Nothing has been asked of the node yet: who cancels the task needn't wait for its turn.
            await self.interruptible(self._slots.take(node))
            self._slot = node
        return connection

    @property
    def cancelled(self) -> bool:
        """Whether a client has cancelled the task, which ends as soon as it can."""
        return self._cancelled

    def leavable(self, can: bool = True) -> None:
        """From now on the task can be left, or not any more: it looks at L{cancelled} now and then, and at last."""
        self._leavable = can

    async def hold(self, *keys: Key) -> None:
        """
        Hold other objects instead of those held until now, durably, beside what the task names: no other task touches them.

        What was reserved is given back, and the place on a compute node.

        @raise Conflict: a client cancelled the task while it waited for them.
        """
        self.release()
        self.memo["holds"] = [list(key) for key in keys]
        if self._holding is not None:
            await self.interruptible(Deferred.fromCoroutine(self._holding.take()))
        await self.flush()

    def release(self) -> None:
        """The task has ended: let go of the compute node's slot, and of what it reserved."""
        self.unreserve()
        if self._slot is not None:
            self._slots.release(self._slot)
            self._slot = None

    def cancel(self) -> bool:
        """
        Have the task end as soon as what it does can be left.

        @return: whether it will; a task that can't be left goes on to its end.
        """
        if self._cancelled or (self._interruptible is None and not self._leavable):
            return False
        self._cancelled = True
        if self._interruptible is not None:
            self._interruptible.cancel()
        return True

    async def interruptible(self, work: Deferred[T]) -> T:
        """
        Wait for something that can be cancelled: it stops then and leaves nothing behind.

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
        Ask a compute node what a domain is now.

        @raise NotFound: it isn't there any more.
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
        Wait until a domain is in a state.

        @param timeout: seconds.
        @param meanwhile: what is done after each look that finds it in another.
        @raise Conflict: it isn't in time; C{otherwise} are its words.
        """
        deadline = self.clock.seconds() + timeout
        self._leavable = True  # also during a look, which itself isn't cut off
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
