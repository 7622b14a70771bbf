"""Logins: check passwords in a thread pool, throttle failed attempts, and check second factors."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar

import pyotp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from fluidvm.auth.passwords import Hasher, check_password
from fluidvm.auth.throttle import Throttle, network_of
from fluidvm.model.faults import TooManyAttempts, Unavailable

__all__ = ["Attempt", "Logins", "check_password", "second_factor_step"]

T = TypeVar("T")
THREADS = 2
FREE_TRIES = 5
"""Failed attempts in a row, from one address for one name, that cause no wait; each further one doubles the wait."""
FREE_TRIES_PER_ADDRESS = 100
"""As L{FREE_TRIES}, from one address for all names together."""
FREE_TRIES_PER_NAME = 20
"""As L{FREE_TRIES}, for one name, from all addresses together from which that user hasn't logged in before."""
MOST_PER_ADDRESS = 64
"""Maximum number of passwords from one address that wait to be checked."""
MOST_IN_ALL = 1024
"""Maximum number of passwords that wait to be checked."""
ADDRESSES_PER_USER = 16
"""Addresses of earlier logins that are remembered for each user."""
STEP = 30
"""Seconds that a code of a second factor is valid (RFC 6238, section 5.2)."""


@dataclass(frozen=True)
class Attempt:
    """An attempt to log in: its network, the name, and whether that user has logged in from this network before."""

    network: str
    name: str
    known: bool


class Logins:
    """
    Checks passwords.

    @ivar least: minimum length of a new password in characters.
    @param reactor: the real reactor, for threads.
    @param clock: the time for throttling.
    """

    def __init__(self, reactor: Any, clock: IReactorTime, hasher: Hasher, least: int) -> None:
        self.least = least
        self._reactor = reactor
        self._pool = ThreadPool(0, THREADS, "passwords")
        self._hasher = hasher
        self._by_both = Throttle(clock, FREE_TRIES)
        self._by_address = Throttle(clock, FREE_TRIES_PER_ADDRESS)
        self._by_name = Throttle(clock, FREE_TRIES_PER_NAME)
        self._under_way: Counter[str] = Counter()
        self._known: dict[int, OrderedDict[str, None]] = {}

    def load(self, known: Iterable[tuple[int, str]]) -> None:
        """Load the networks from which users have logged in, the latest last."""
        for user, network in known:
            self._learn(user, network)

    def start(self) -> None:
        """Start the thread pool."""
        self._pool.start()

    def stop(self) -> None:
        """Stop the thread pool."""
        if self._pool.started:
            self._pool.stop()

    def hash_now(self, password: str) -> str:
        """Hash a password. Blocks: only for use before the reactor runs."""
        return self._hasher.hash(password)

    def hash(self, password: str) -> Deferred[str]:
        """Hash a password in the thread pool."""
        return self._run(self._hasher.hash, password)

    def verify(self, hashed: str | None, password: str) -> Deferred[bool]:
        """
        Return whether a password is correct.

        @param hashed: the result of L{hash}; C{None} for an unknown user, which takes the same time and is never correct.
        """
        return self._run(self._hasher.verify, hashed, password)

    def outdated(self, hashed: str) -> bool:
        """Return whether a password should be hashed again, because the parameters have changed."""
        return self._hasher.outdated(hashed)

    def _run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, function, *args)

    def begin(self, address: str, name: str, user: int | None) -> Attempt:
        """
        Admit an attempt. The caller must call L{end} in any case.

        @param user: the id of the user with this name; C{None} if there is none.
        @raise TooManyAttempts: the client must wait; the fault says how many seconds.
        @raise Unavailable: too many passwords are being checked.
        """
        network = network_of(address)
        attempt = Attempt(network, name, user is not None and network in self._known.get(user, ()))
        self.admit(attempt)
        if not attempt.known and self._under_way[network] >= MOST_PER_ADDRESS:
            raise TooManyAttempts("Too many logins from your address at the same time: try again in 1 s.")
        if self._under_way.total() >= MOST_IN_ALL:
            raise Unavailable("The server is busy with other logins: try again.")
        self._under_way[network] += 1
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Record that an attempt has ended."""
        self._under_way[attempt.network] -= 1
        if not self._under_way[attempt.network]:
            del self._under_way[attempt.network]

    def admit(self, attempt: Attempt) -> None:
        """
        Refuse an attempt that comes too soon after failed ones.

        If the user has logged in from this network before, only failed attempts for this name from this network count. So
        attackers at other addresses, or at the same address with other names, can't lock the user out.

        @raise TooManyAttempts: the client must wait; the fault says how many seconds.
        """
        wait = self._by_both.wait((attempt.network, attempt.name))
        if not attempt.known:
            wait = max(wait, self._by_address.wait(attempt.network), self._by_name.wait(attempt.name))
        if wait > 0:
            raise TooManyAttempts(f"Too many failed logins: try again in {ceil(wait)} s.")

    def failed(self, attempt: Attempt) -> None:
        """Count a failed attempt."""
        self._by_both.failed((attempt.network, attempt.name))
        self._by_address.failed(attempt.network)
        if not attempt.known:
            self._by_name.failed(attempt.name)

    def succeeded(self, attempt: Attempt, user: int) -> None:
        """Forget failed attempts for this name from this network, and remember the network as the user's."""
        self._by_both.succeeded((attempt.network, attempt.name))
        self._learn(user, attempt.network)

    def _learn(self, user: int, network: str) -> None:
        networks = self._known.setdefault(user, OrderedDict())
        networks[network] = None
        networks.move_to_end(network)
        if len(networks) > ADDRESSES_PER_USER:
            networks.popitem(last=False)

    def forget(self, user: int) -> None:
        """Forget the networks of a deleted user."""
        self._known.pop(user, None)


def second_factor_step(secret: str, code: str, now: float, last: int) -> int | None:
    """
    Check a second factor's code (TOTP, RFC 6238).

    A clock that is off by one step is tolerated, and each code can be used once (section 5.2).

    @param secret: in base32.
    @param now: seconds since the epoch.
    @param last: the step of the last code that was used.
    @return: the code's step; C{None} if the code is wrong.
    """
    totp = pyotp.TOTP(secret, interval=STEP)
    current = int(now) // STEP
    for step in (current - 1, current, current + 1):
        if step > last and totp.verify(code, for_time=step * STEP):
            return step
    return None
