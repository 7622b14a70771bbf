"""Passwords: hashed in a pool of their own, wrong ones throttled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from fluidvm.faults import TooManyAttempts

T = TypeVar("T")
THREADS = 2
FREE_TRIES = 5
"""How many wrong passwords in a row cost nothing; each one more doubles the wait."""
FREE_TRIES_PER_ADDRESS = 50
LONGEST_WAIT = 60.0
FORGET_AFTER = 900.0
REMEMBERED = 100_000


class Throttle:
    """
    Counts wrong tries per key and says how long the next one must wait.

    @param clock: the time.
    @param free: how many tries in a row cost nothing.
    """

    def __init__(self, clock: IReactorTime, free: int) -> None:
        self._clock = clock
        self._free = free
        self._tries: OrderedDict[object, tuple[int, float]] = OrderedDict()

    def wait(self, key: object) -> float:
        """How many seconds a key must wait still; 0: none."""
        count, last = self._tries.get(key, (0, 0.0))
        if count < self._free:
            return 0.0
        pause = min(LONGEST_WAIT, 2.0 ** min(count - self._free, 16))
        return max(0.0, last + pause - self._clock.seconds())

    def failed(self, key: object) -> None:
        """Count a wrong try."""
        now = self._clock.seconds()
        count, last = self._tries.pop(key, (0, now))
        self._tries[key] = ((count if now - last < FORGET_AFTER else 0) + 1, now)
        while len(self._tries) > REMEMBERED:
            self._tries.popitem(last=False)

    def succeeded(self, key: object) -> None:
        """Forget a key's wrong tries."""
        self._tries.pop(key, None)


class Logins:
    """
    Hashes and checks passwords (argon2id, RFC 9106).

    @param reactor: the real one; time for throttling is C{clock}'s.
    """

    def __init__(self, reactor: Any, clock: IReactorTime) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, THREADS, "passwords")
        self._hasher = PasswordHasher()
        self._by_user = Throttle(clock, FREE_TRIES)
        self._by_address = Throttle(clock, FREE_TRIES_PER_ADDRESS)
        # What an unknown user's password is compared with, so that it takes the same time.
        self._nobody = self._hasher.hash("")

    def start(self) -> None:
        """Start the pool's threads."""
        self._pool.start()

    def stop(self) -> None:
        """End the pool's threads."""
        if self._pool.started:
            self._pool.stop()

    def hash_now(self, password: str) -> str:
        """Hash a password. Blocks: for the start, before the reactor runs."""
        return self._hasher.hash(password.encode("utf-8", "surrogatepass"))

    def hash(self, password: str) -> Deferred[str]:
        """Hash a password in the pool."""
        return self._run(self.hash_now, password)

    def verify(self, hashed: str | None, password: str) -> Deferred[bool]:
        """
        Tell whether a password is right.

        @param hashed: as L{hash} made it; C{None} (an unknown user) takes the same time and is never right.
        """
        return self._run(self._verify, hashed, password)

    def _verify(self, hashed: str | None, password: str) -> bool:
        try:
            right = self._hasher.verify(hashed or self._nobody, password.encode("utf-8", "surrogatepass"))
        except (VerificationError, InvalidHashError):
            return False
        return right and hashed is not None

    def _run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._pool, function, *args)

    def admit(self, address: str, name: str) -> None:
        """
        Refuse a try that comes too soon after wrong ones.

        Counted per address, and per name and address together: a stranger elsewhere can't lock a user out.

        @raise TooManyAttempts: names the seconds to wait.
        """
        wait = max(self._by_user.wait((address, name)), self._by_address.wait(address))
        if wait > 0:
            raise TooManyAttempts(f"Too many wrong logins from your address: try again in {ceil(wait)} s.")

    def failed(self, address: str, name: str) -> None:
        """Count a wrong try."""
        self._by_user.failed((address, name))
        self._by_address.failed(address)

    def succeeded(self, address: str, name: str) -> None:
        """Forget the wrong tries of a user's own address."""
        self._by_user.succeeded((address, name))
