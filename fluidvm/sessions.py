"""Sessions: cookies made, found, expired; each one's pending tasks and its place in the change log."""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Any, ClassVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from fluidvm.declare import Method
from fluidvm.faults import ApiFault, InvalidParams, NotLoggedIn, TooLarge, TooManyAttempts
from fluidvm.kinds import wire_name
from fluidvm.object_fields import Fields
from fluidvm.throttle import Throttle, network_of
from fluidvm.xmlvalue import INT_HIGH, INT_LOW, moment

FREE_COOKIES = 250
"""How many wrong cookies in a row cost an address nothing: clients that were logged out have some."""
LONGEST_HOLD = 20.0
MOST_PENDING = 1000
"""How many tasks one session may have pending."""
MOST_HELD = 64 * 2**20
"""Characters that the arguments of one user's pending tasks may have together, in all of its sessions."""
MOST_SESSIONS = 1000
"""How many sessions one user may have."""


class HeldBack(TooManyAttempts):
    """Too many wrong cookies; the answer is to be held back for L{Sessions.hold}."""


@dataclass(frozen=True, slots=True)
class PendingTask:
    """
    A task that was called and not committed.

    @ivar target: the id of the object that it acts on.
    @ivar claims: type and id of every object that no other task may touch meanwhile.
    """

    method: Method
    target: int
    arguments: tuple[Any, ...]
    claims: frozenset[tuple[str, int]]


@dataclass(slots=True)
class Session:
    """
    One login.

    @ivar id: its number for listings; not the cookie.
    @ivar serial: how much of the change log C{ping} has told.
    @ivar offered_secret: of a second factor that isn't confirmed yet.
    @ivar holding: characters of arguments that each user's pending tasks have: the same for all sessions.
    @ivar ended: nobody can use it any more.
    @ivar held: this session's share of it.
    @ivar wall_created: seconds since the epoch; the other times are the clock's.
    """

    FIELDS: ClassVar[Fields] = {
        "id": int, "user": int, "address": str, "created": datetime, "last_ping": datetime, "pending": int,
    }  # fmt: skip

    id: int
    cookie: int
    user: int
    address: str
    serial: int
    wall_created: float
    wall_last_ping: float
    expires: float
    pending: list[PendingTask] = field(default_factory=list)
    promised: set[tuple[str, int]] = field(default_factory=set)
    offered_secret: str = ""
    holding: Counter[int] = field(default_factory=Counter)
    held: int = 0
    ended: bool = False

    def wire(self) -> dict[str, Any]:
        """As C{list_sessions} gives it."""
        return {
            "id": self.id, "user": self.user, "address": self.address, "created": moment(self.wall_created),
            "last_ping": moment(self.wall_last_ping), "pending": len(self.pending),
        }  # fmt: skip

    def queue(self, task: PendingTask) -> None:
        """
        Add a pending task.

        @raise TooLarge: there are too many, or they are too large.
        """
        self.admit()
        size = len(repr(task.arguments))
        if self.holding[self.user] + size > MOST_HELD:
            raise TooLarge(
                f"The arguments of your pending tasks have more than {MOST_HELD // 2**20} MiB: "
                "commit_tasks or discard_tasks first."
            )
        self._hold(size)
        self.pending.append(task)
        if task.method.creates:
            self.promised.add((task.method.target, task.target))

    def admit(self) -> None:
        """Refuse one more pending task when there are too many."""
        if len(self.pending) >= MOST_PENDING:
            raise TooLarge(f"{MOST_PENDING} tasks are pending already: commit_tasks or discard_tasks first.")

    def take(self) -> list[PendingTask]:
        """Empty the list of pending tasks and give it."""
        taken, self.pending = self.pending, []
        self.promised = set()
        self._hold(-self.held)
        return taken

    def _hold(self, size: int) -> None:
        self.held += size
        self.holding[self.user] += size
        if not self.holding[self.user]:
            del self.holding[self.user]

    def put_back(self, tasks: list[PendingTask]) -> None:
        """Undo L{take}, before what was queued since. A session that has ended meanwhile has nothing pending."""
        if self.ended:
            return
        self.pending[:0] = tasks
        self._hold(sum(len(repr(task.arguments)) for task in tasks))
        self.promised.update((task.method.target, task.target) for task in tasks if task.method.creates)


class Sessions:
    """
    All sessions of this server.

    @param clock: the time that sessions expire by.
    @param timeout: seconds without a ping after which a session ends.
    @param any_call: every call counts as a ping.
    @param wall_clock: seconds since the epoch.
    """

    def __init__(self, clock: IReactorTime, timeout: float, any_call: bool, wall_clock: Callable[[], float]) -> None:
        self.timeout = timeout
        self._clock = clock
        self._any_call = any_call
        self._wall_clock = wall_clock
        # The one that expires first comes first: every session lives equally long after its last ping.
        self._by_cookie: OrderedDict[bytes, Session] = OrderedDict()
        self._holding: Counter[int] = Counter()
        self._by_user: Counter[int] = Counter()
        self._wrong = Throttle(clock, FREE_COOKIES)
        self._last_id = 0
        self._sweep: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._by_cookie)

    def open(self, user: int, address: str, serial: int) -> Session:
        """
        Make a session.

        @param serial: the change log's newest.
        @return: with a fresh cookie: random over the whole signed 32-bit range, not 0, not in use.
        @raise TooLarge: the user has too many.
        """
        if self._by_user[user] >= MOST_SESSIONS:
            raise TooLarge(f"You have {MOST_SESSIONS} sessions: end some by logout, or wait until they have expired.")
        cookie = 0
        while cookie == 0 or _key(cookie) in self._by_cookie:
            cookie = secrets.randbits(32) - 2**31
        self._last_id += 1
        now = self._wall_clock()
        session = Session(
            self._last_id, cookie, user, address, serial, now, now, self._clock.seconds() + self.timeout,
            holding=self._holding,
        )  # fmt: skip
        self._by_cookie[_key(cookie)] = session
        self._by_user[user] += 1
        self._schedule()
        return session

    def find(self, cookie: object, address: str) -> Session:
        """
        Give the session of a cookie.

        @param cookie: whatever a client gave for one.
        @raise InvalidParams: no cookie looks so: it counts as a wrong one.
        @raise NotLoggedIn: unknown, expired or from another address: the same words.
        @raise HeldBack: the one or the other, after many from this address.
        """
        if type(cookie) is not int:
            raise self._refuse(address, InvalidParams(f"cookie: wants an int, not {wire_name(cookie)}."))
        if not INT_LOW <= cookie <= INT_HIGH:
            raise self._refuse(address, InvalidParams("cookie: is out of range: a cookie has 32 bits."))
        session = self._by_cookie.get(_key(cookie))
        if session is None or session.address != address or session.expires <= self._clock.seconds():
            raise self._refuse(address, NotLoggedIn("You are not logged in: authenticate again."))
        if self._any_call:
            self.touch(session)
        return session

    def _refuse(self, address: str, fault: ApiFault) -> ApiFault:
        """Count a wrong cookie. @param fault: why it is wrong. @return: that, or that there were too many."""
        network = network_of(address)
        wait = self._wrong.wait(network)
        self._wrong.failed(network)
        if wait > 0:
            return HeldBack(f"Too many wrong cookies from your address: authenticate, or try again in {ceil(wait)} s.")
        return fault

    def hold(self, address: str) -> float:
        """How many seconds the answer to a wrong cookie is held back: few can be tried, and right ones aren't delayed."""
        return min(LONGEST_HOLD, self._wrong.wait(network_of(address)))

    def all(self) -> list[Session]:
        """Give the sessions that haven't expired, in the order of their ids."""
        now = self._clock.seconds()
        return sorted((one for one in self._by_cookie.values() if one.expires > now), key=lambda session: session.id)

    def lives(self, session: Session) -> bool:
        """Tell whether a session hasn't ended."""
        return self._by_cookie.get(_key(session.cookie)) is session and session.expires > self._clock.seconds()

    def touch(self, session: Session) -> None:
        """The session's client is alive."""
        session.expires = self._clock.seconds() + self.timeout
        session.wall_last_ping = self._wall_clock()
        self._by_cookie.move_to_end(_key(session.cookie))

    def close(self, session: Session) -> None:
        """End a session; its pending tasks are dropped."""
        session.take()
        session.ended = True
        if self._by_cookie.pop(_key(session.cookie), None) is not None:
            self._by_user[session.user] -= 1
            if not self._by_user[session.user]:
                del self._by_user[session.user]

    def close_user(self, user: int) -> None:
        """End every session of a user."""
        for session in [session for session in self._by_cookie.values() if session.user == user]:
            self.close(session)

    def stop(self) -> None:
        """End all sessions."""
        if self._sweep is not None and self._sweep.active():
            self._sweep.cancel()
        self._by_cookie.clear()

    def _schedule(self) -> None:
        if self._by_cookie and (self._sweep is None or not self._sweep.active()):
            first = next(iter(self._by_cookie.values()))
            self._sweep = self._clock.callLater(max(0.0, first.expires - self._clock.seconds()), self._expire)

    def _expire(self) -> None:
        now = self._clock.seconds()
        while self._by_cookie:
            first = next(iter(self._by_cookie.values()))
            if first.expires > now:
                break
            self.close(first)
        self._schedule()


def _key(cookie: int) -> bytes:
    # Bytes are found by a hash that is keyed per process (SipHash), so that the time of a search tells a guesser nothing.
    return cookie.to_bytes(4, "big", signed=True)
