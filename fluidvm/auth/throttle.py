"""Wrong tries counted, and how long the next one must wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import ip_network

from twisted.internet.interfaces import IReactorTime

LONGEST_WAIT = 60.0
FORGET_AFTER = 900.0
REMEMBERED = 100_000


class Throttle:
    """
    Counts wrong tries per key.

    The first ones are free; each one more doubles the wait, from one second to L{LONGEST_WAIT}.

    @param clock: the time.
    @param free: how many tries in a row cost nothing.
    """

    def __init__(self, clock: IReactorTime, free: int) -> None:
        self._clock = clock
        self._free = free
        self._tries: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def wait(self, key: Hashable) -> float:
        """How many seconds a key must wait still; 0: none."""
        count, last = self._tries.get(key, (0, 0.0))
        if count < self._free:
            return 0.0
        pause = min(LONGEST_WAIT, 2.0 ** min(count - self._free, 16))
        return max(0.0, last + pause - self._clock.seconds())

    def failed(self, key: Hashable) -> None:
        """Count a wrong try."""
        now = self._clock.seconds()
        count, last = self._tries.pop(key, (0, now))
        self._tries[key] = ((count if now - last < FORGET_AFTER else 0) + 1, now)
        while len(self._tries) > REMEMBERED:
            self._tries.popitem(last=False)

    def succeeded(self, key: Hashable) -> None:
        """Forget a key's wrong tries."""
        self._tries.pop(key, None)


def network_of(address: str) -> str:
    """
    Who is counted as one: an IPv4 address, or an IPv6 address's /64, of which one client has all (RFC 6177).

    What is no address, such as a Unix socket's name, stands for itself.
    """
    if ":" not in address:
        return address
    try:
        return str(ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
