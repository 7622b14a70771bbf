"""Sessions: their cookies, expiry, pending tasks and serials of the change log."""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Any, ClassVar, Self

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from fluidvm.auth.throttle import Throttle, network_of
from fluidvm.model.declare import Method
from fluidvm.model.faults import ApiFault, InvalidParams, NotLoggedIn, TooLarge, TooManyAttempts
from fluidvm.model.kinds import wire_name
from fluidvm.model.object_fields import Fields
from fluidvm.model.xmlvalue import INT_HIGH, INT_LOW, moment

FREE_COOKIES = 250
"""Invalid cookies in a row from one address that cause no wait: clients whose sessions have ended send some."""
LONGEST_HOLD = 20.0
"""Maximum number of seconds by which the answer to an invalid cookie is delayed."""
MOST_PENDING = 1000
"""Maximum number of pending tasks of one session."""
MOST_HELD = 64 * 2**20
"""Maximum size, in characters, of the arguments of all pending tasks of one user, in all sessions together."""
MOST_SESSIONS = 1000
"""Maximum number of sessions of one user."""
LONGEST_CALL = 600.0
"""Maximum number of seconds by which running calls can extend a session beyond its timeout."""


class HeldBack(TooManyAttempts):
    """Too many invalid cookies; the answer must be delayed by L{Sessions.hold}."""


@dataclass(frozen=True, slots=True)
class PendingTask:
    """
    A task that was called but not committed yet.

    @ivar target: the id of the object that it acts on.
    @ivar claims: type and id of every object that no other task must change while this one runs.
    """

    method: Method
    target: int
    arguments: tuple[Any, ...]
    claims: frozenset[tuple[str, int]]


@dataclass(slots=True)
class Session:
    """
    One login.

    @ivar id: its number in lists; not the cookie.
    @ivar serial: the serial of the last change that C{ping} has reported.
    @ivar offered_secret: the secret of a second factor that isn't confirmed yet.
    @ivar promised: type and id of every object that a pending task will create.
    @ivar holding: size in characters of the arguments of each user's pending tasks; shared by all sessions.
    @ivar held: this session's share of C{holding}.
    @ivar ended: whether the session has ended.
    @ivar wall_created: seconds since the epoch, like C{wall_last_ping}; the other times are the clock's.
    @ivar renewed: when the timeout was last restarted.
    @ivar expires: when the session ends, unless one of its calls is running then.
    @ivar calls: number of running requests that have calls of this session.
    """

    FIELDS: ClassVar[Fields] = {
        "id": int,
        "user": int,
        "address": str,
        "created": datetime,
        "last_ping": datetime,
        "pending": int,
    }

    id: int
    cookie: int
    user: int
    address: str
    serial: int
    wall_created: float
    wall_last_ping: float
    renewed: float
    expires: float
    calls: int = 0
    pending: list[PendingTask] = field(default_factory=list)
    promised: set[tuple[str, int]] = field(default_factory=set)
    offered_secret: str = ""
    holding: Counter[int] = field(default_factory=Counter)
    held: int = 0
    ended: bool = False

    def wire(self) -> dict[str, Any]:
        """The session as in the answer of C{list_sessions}."""
        return {
            "id": self.id,
            "user": self.user,
            "address": self.address,
            "created": moment(self.wall_created),
            "last_ping": moment(self.wall_last_ping),
            "pending": len(self.pending),
        }

    def queue(self, task: PendingTask) -> None:
        """
        Add a pending task.

        @raise TooLarge: there are too many, or they are too large.
        """
        self.admit()
        size = len(repr(task.arguments))
        if self.holding[self.user] + size > MOST_HELD:
            raise TooLarge(
                f"The arguments of your pending tasks exceed {MOST_HELD // 2**20} MiB: "
                "call commit_tasks or discard_tasks first."
            )
        self._hold(size)
        self.pending.append(task)
        if task.method.creates:
            self.promised.add((task.method.target, task.target))

    def admit(self) -> None:
        """@raise TooLarge: the session already has the maximum number of pending tasks."""
        if len(self.pending) >= MOST_PENDING:
            raise TooLarge(f"{MOST_PENDING} tasks are already pending: call commit_tasks or discard_tasks first.")

    def take(self) -> list[PendingTask]:
        """Remove and return all pending tasks."""
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
        """Undo L{take}: insert the tasks before those queued since. If the session has ended, do nothing."""
        if self.ended:
            return
        self.pending[:0] = tasks
        self._hold(sum(len(repr(task.arguments)) for task in tasks))
        self.promised.update((task.method.target, task.target) for task in tasks if task.method.creates)


class Sessions:
    """
    All sessions of this server.

    A session expires unless ping is called. It doesn't expire during one of its own calls, because its client can't ping
    then: see L{UnderWay}.

    @param clock: the time by which sessions expire.
    @param timeout: seconds without a ping after which a session expires.
    @param any_call: whether every call counts as a ping.
    @param wall_clock: seconds since the epoch.
    """

    def __init__(self, clock: IReactorTime, timeout: float, any_call: bool, wall_clock: Callable[[], float]) -> None:
        self.timeout = timeout
        self._clock = clock
        self._any_call = any_call
        self._wall_clock = wall_clock
        self._by_cookie: dict[bytes, Session] = {}
        # Sessions without a running call, in the order in which they expire, as the timeout is the same for all. One whose
        # call has just ended can be out of order by less than the timeout; until it is removed it only takes memory.
        self._idle: OrderedDict[bytes, Session] = OrderedDict()
        self._holding: Counter[int] = Counter()
        self._by_user: Counter[int] = Counter()
        self._wrong = Throttle(clock, FREE_COOKIES)
        self._last_id = 0
        self._sweep: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._by_cookie)

    def open(self, user: int, address: str, serial: int) -> Session:
        """
        Create a session.

        @param serial: the newest serial of the change log.
        @return: the session, with a new cookie: random over the whole signed 32-bit range, not 0, and not in use.
        @raise TooLarge: the user has too many sessions.
        """
        if self._by_user[user] >= MOST_SESSIONS:
            raise TooLarge(f"You already have {MOST_SESSIONS} sessions: end some with logout, or wait until they expire.")
        cookie = 0
        while cookie == 0 or _key(cookie) in self._by_cookie:
            cookie = secrets.randbits(32) - 2**31
        self._last_id += 1
        wall, now = self._wall_clock(), self._clock.seconds()
        session = Session(
            self._last_id, cookie, user, address, serial, wall, wall, now, now + self.timeout, holding=self._holding
        )
        self._by_cookie[_key(cookie)] = self._idle[_key(cookie)] = session
        self._by_user[user] += 1
        self._schedule()
        return session

    def find(self, cookie: object, address: str) -> Session:
        """
        Return the session of a cookie.

        @param cookie: the value that a client sent as the cookie.
        @raise InvalidParams: it has the wrong type or range; it counts as an invalid cookie.
        @raise NotLoggedIn: it is unknown or expired, or was issued to another address; the fault is the same.
        @raise HeldBack: it is invalid, after too many invalid ones from this address.
        """
        if type(cookie) is not int:
            raise self._refuse(address, InvalidParams(f"cookie: must be an int, not {wire_name(cookie)}."))
        if not INT_LOW <= cookie <= INT_HIGH:
            raise self._refuse(address, InvalidParams("cookie: is out of range: a cookie has 32 bits."))
        session = self._by_cookie.get(_key(cookie))
        if session is None or session.address != address or self._over(session):
            raise self._refuse(address, NotLoggedIn("You are not logged in: authenticate again."))
        if self._any_call:
            self.touch(session)
        return session

    def _refuse(self, address: str, fault: ApiFault) -> ApiFault:
        """Count an invalid cookie. @param fault: why it is invalid. @return: C{fault}, or L{HeldBack} after too many."""
        network = network_of(address)
        wait = self._wrong.wait(network)
        self._wrong.failed(network)
        if wait > 0:
            return HeldBack(f"Too many invalid cookies from your address: authenticate, or try again in {ceil(wait)} s.")
        return fault

    def hold(self, address: str) -> float:
        """Seconds by which the answer to an invalid cookie is delayed. Valid ones aren't delayed, and few can be guessed."""
        return min(LONGEST_HOLD, self._wrong.wait(network_of(address)))

    def all(self) -> list[Session]:
        """Return the sessions that haven't expired, in the order of their ids."""
        return sorted((one for one in self._by_cookie.values() if not self._over(one)), key=lambda session: session.id)

    def lives(self, session: Session) -> bool:
        """Return whether a session hasn't ended."""
        return self._by_cookie.get(_key(session.cookie)) is session and not self._over(session)

    def left(self, session: Session) -> float:
        """Return the number of seconds until a session expires, if all its calls ended now."""
        return max(0.0, session.expires - self._clock.seconds())

    def touch(self, session: Session) -> None:
        """Restart the session's timeout."""
        session.renewed = self._clock.seconds()
        session.expires = session.renewed + self.timeout
        session.wall_last_ping = self._wall_clock()
        if not session.calls:
            self._idle.move_to_end(_key(session.cookie))

    def _over(self, session: Session) -> bool:
        """Whether a session has expired. Running calls extend it, but only up to a limit."""
        now = self._clock.seconds()
        return session.expires <= now and (not session.calls or self._latest(session) <= now)

    def _latest(self, session: Session) -> float:
        """The latest point in time to which running calls can extend a session."""
        return session.renewed + self.timeout + LONGEST_CALL

    def begin(self, session: Session) -> float:
        """Record that a call has begun. @return: when; to be passed to L{end}."""
        if not session.calls:
            self._idle.pop(_key(session.cookie), None)
        session.calls += 1
        return self._clock.seconds()

    def end(self, session: Session, began: float) -> None:
        """Record that a call has ended. If calls count as pings, restart the session's timeout."""
        alive, now = self.lives(session), self._clock.seconds()
        session.calls -= 1
        if not alive:
            self.close(session)
            return
        if not session.calls:
            self._idle[_key(session.cookie)] = session
        if self._any_call:
            self.touch(session)
        else:
            # Extended by the duration of the call, so that a client that pinged in time before it needn't hurry after it.
            grace = now + min(self.timeout, now - began)
            session.expires = max(session.expires, min(grace, self._latest(session)))
        self._schedule()

    def close(self, session: Session) -> None:
        """End a session and discard its pending tasks."""
        session.take()
        session.ended = True
        key = _key(session.cookie)
        if self._by_cookie.get(key) is session:
            del self._by_cookie[key]
            self._idle.pop(key, None)
            self._by_user[session.user] -= 1
            if not self._by_user[session.user]:
                del self._by_user[session.user]

    def close_user(self, user: int, but: Session | None = None) -> None:
        """End every session of a user. @param but: a session that is not ended."""
        for session in [one for one in self._by_cookie.values() if one.user == user and one is not but]:
            self.close(session)

    def stop(self) -> None:
        """End all sessions."""
        if self._sweep is not None and self._sweep.active():
            self._sweep.cancel()
        self._by_cookie.clear()
        self._idle.clear()

    def _schedule(self) -> None:
        if self._idle and (self._sweep is None or not self._sweep.active()):
            first = next(iter(self._idle.values()))
            self._sweep = self._clock.callLater(max(0.0, first.expires - self._clock.seconds()), self._expire)

    def _expire(self) -> None:
        now = self._clock.seconds()
        while self._idle:
            first = next(iter(self._idle.values()))
            if first.expires > now:
                break
            self.close(first)
        self._schedule()


class UnderWay:
    """
    The calls of one request. Their sessions don't expire until the request is answered.

    Used as a context manager.

    @param callers: sessions whose calls have already begun.
    """

    __slots__ = ("_began", "_sessions")

    def __init__(self, sessions: Sessions, callers: Iterable[Session] = ()) -> None:
        self._sessions = sessions
        self._began: dict[int, tuple[Session, float]] = {}
        for session in callers:
            self.add(session)

    def add(self, session: Session) -> None:
        """Record that a call of a session begins. Further calls of the same session have no effect."""
        if session.id not in self._began:
            self._began[session.id] = session, self._sessions.begin(session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for session, began in self._began.values():
            self._sessions.end(session, began)


def _key(cookie: int) -> bytes:
    # Python hashes bytes with a random key per process (SipHash), so the time of a lookup reveals nothing about cookies.
    return cookie.to_bytes(4, "big", signed=True)
