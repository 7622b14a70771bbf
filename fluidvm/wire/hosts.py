"""
The host names that clients may use for the server on loopback.

A web page can change the address of its own name to 127.0.0.1, and then send requests to whatever listens there (DNS
rebinding). The name in the header C{Host} reveals this.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address


class Hosts:
    """@param names: names to allow, in lower case, in addition to addresses, C{localhost} and the name of this machine."""

    def __init__(self, names: Iterable[str]) -> None:
        own = socket.gethostname().lower()
        self._names = {"localhost", own, own.partition(".")[0], *names}

    def admits(self, header: str) -> bool:
        """Tell whether a header C{Host} is allowed on loopback. An empty one is, because browsers always send one."""
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
    """Tell whether an address is a loopback address."""
    return is_address(address) and ip_address(address).is_loopback
