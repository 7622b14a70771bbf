"""Counts failed attempts, and makes the next one wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import ip_network

from twisted.internet.interfaces import IReactorTime

LONGEST_WAIT = 60.0
"""In seconds."""
FORGET_AFTER = 900.0
"""Seconds after the last failed attempt until all of a key's are forgotten."""
REMEMBERED = 100_000
"""Maximum number of keys."""


class Throttle:
    """
    Counts failed attempts for each key.

    The first ones cause no wait. Each further one doubles the wait, from one second up to L{LONGEST_WAIT}.

    @param clock: the time.
    @param free: number of failed attempts in a row that cause no wait.
    """

    def __init__(self, clock: IReactorTime, free: int) -> None:
        self._clock = clock
        self._free = free
        self._tries: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def wait(self, key: Hashable) -> float:
        """Return the number of seconds that a key still has to wait; 0 if none."""
        count, last = self._tries.get(key, (0, 0.0))
        if count < self._free:
            return 0.0
        pause = min(LONGEST_WAIT, 2.0 ** min(count - self._free, 16))
        return max(0.0, last + pause - self._clock.seconds())

    def failed(self, key: Hashable) -> None:
        """Count a failed attempt."""
        now = self._clock.seconds()
        count, last = self._tries.pop(key, (0, now))
        self._tries[key] = ((count if now - last < FORGET_AFTER else 0) + 1, now)
        while len(self._tries) > REMEMBERED:
            self._tries.popitem(last=False)

    def succeeded(self, key: Hashable) -> None:
        """Forget a key's failed attempts."""
        self._tries.pop(key, None)


def network_of(address: str) -> str:
    """
    Return the network that counts as one client: an IPv4 address, or the /64 of an IPv6 address, all of which one client has
    (RFC 6177).

    Anything else, such as the name of a Unix socket, is returned unchanged.
    """
    if ":" not in address:
        return address
    try:
        return str(ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
