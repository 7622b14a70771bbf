"""
By which names the server may be called on loopback.

A web page can have its own name's address changed to 127.0.0.1 and then speak to whatever listens there, as itself (DNS
rebinding); the name in the header C{Host} gives it away.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address


class Hosts:
    """@param names: further names, lower case; beside addresses, C{localhost} and this machine's own name."""

    def __init__(self, names: Iterable[str]) -> None:
        own = socket.gethostname().lower()
        self._names = {"localhost", own, own.partition(".")[0], *names}

    def admits(self, header: str) -> bool:
        """Tell whether a header C{Host} is fine on loopback; an empty one is: no browser sends none."""
        name = header.strip().lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        name = name.removesuffix(".")
        return not name or name in self._names or name.endswith(".localhost") or is_address(name)


def is_address(name: str) -> bool:
    """Tell whether a name is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Tell whether an address is this machine's own to itself."""
    return is_address(address) and ip_address(address).is_loopback
