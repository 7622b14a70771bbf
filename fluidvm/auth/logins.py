"""Logging in: passwords checked in a pool of their own, wrong ones throttled, second factors."""

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
"""How many wrong passwords in a row cost one address nothing, for one name; each one more doubles the wait."""
FREE_TRIES_PER_ADDRESS = 100
FREE_TRIES_PER_NAME = 20
"""From all addresses together that the user hasn't logged in from."""
MOST_PER_ADDRESS = 64
MOST_IN_ALL = 1024
"""How many passwords may wait to be checked."""
ADDRESSES_PER_USER = 16
STEP = 30
"""Seconds that a second factor's code lasts (RFC 6238, section 5.2)."""


@dataclass(frozen=True)
class Attempt:
    """Somebody tries to log in: from which network, by which name, and whether that user has come from there before."""

    network: str
    name: str
    known: bool


class Logins:
    """
    Checks passwords.

    @ivar least: how many characters a new password must have.
    @param reactor: the real one; time for throttling is C{clock}'s.
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
        """Take on the networks that users have come from, the latest last."""
        for user, network in known:
            self._learn(user, network)

    def start(self) -> None:
        """Start the pool's threads."""
        self._pool.start()

    def stop(self) -> None:
        """End the pool's threads."""
        if self._pool.started:
            self._pool.stop()

    def hash_now(self, password: str) -> str:
        """Hash a password. Blocks: for the start, before the reactor runs."""
        return self._hasher.hash(password)

    def hash(self, password: str) -> Deferred[str]:
        """Hash a password in the pool."""
        return self._run(self._hasher.hash, password)

    def verify(self, hashed: str | None, password: str) -> Deferred[bool]:
        """
        Tell whether a password is right.

        @param hashed: as L{hash} made it; C{None} (an unknown user) takes the same time and is never right.
        """
        return self._run(self._hasher.verify, hashed, password)

    def outdated(self, hashed: str) -> bool:
        """Tell whether a hash should be made anew, now that the password is at hand."""
        return self._hasher.outdated(hashed)

    def _run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, function, *args)

    def begin(self, address: str, name: str, user: int | None) -> Attempt:
        """
        Admit a try; L{end} it in any case.

        @param user: the id of the user of this name; C{None}: there is none.
        @raise TooManyAttempts: names the seconds to wait.
        @raise Unavailable: too many others are being checked.
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
        """A try is over."""
        self._under_way[attempt.network] -= 1
        if not self._under_way[attempt.network]:
            del self._under_way[attempt.network]

    def admit(self, attempt: Attempt) -> None:
        """
        Refuse a try that comes too soon after wrong ones.

        From a network that the user has come from before, only wrong tries for this name from there count: strangers
        elsewhere, or at the same address with other names, can't lock the user out.

        @raise TooManyAttempts: names the seconds to wait.
        """
        wait = self._by_both.wait((attempt.network, attempt.name))
        if not attempt.known:
            wait = max(wait, self._by_address.wait(attempt.network), self._by_name.wait(attempt.name))
        if wait > 0:
            raise TooManyAttempts(f"Too many failed logins: try again in {ceil(wait)} s.")

    def failed(self, attempt: Attempt) -> None:
        """Count a wrong try."""
        self._by_both.failed((attempt.network, attempt.name))
        self._by_address.failed(attempt.network)
        if not attempt.known:
            self._by_name.failed(attempt.name)

    def succeeded(self, attempt: Attempt, user: int) -> None:
        """Forget the wrong tries from the user's own network, and remember that it is the user's."""
        self._by_both.succeeded((attempt.network, attempt.name))
        self._learn(user, attempt.network)

    def _learn(self, user: int, network: str) -> None:
        networks = self._known.setdefault(user, OrderedDict())
        networks[network] = None
        networks.move_to_end(network)
        if len(networks) > ADDRESSES_PER_USER:
            networks.popitem(last=False)

    def forget(self, user: int) -> None:
        """A user is gone."""
        self._known.pop(user, None)


def second_factor_step(secret: str, code: str, now: float, last: int) -> int | None:
    """
    Check a second factor's code (TOTP, RFC 6238).

    A clock that is one step off is tolerated, and a code is good once (section 5.2).

    @param secret: base32.
    @param now: seconds since the epoch.
    @param last: the step whose code was used last.
    @return: the code's step; C{None}: it is wrong.
    """
    totp = pyotp.TOTP(secret, interval=STEP)
    current = int(now) // STEP
    for step in (current - 1, current, current + 1):
        if step > last and totp.verify(code, for_time=step * STEP):
            return step
    return None
