"""Where the server listens: Twisted's endpoint strings, with room for clients that come at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import serverFromString

BACKLOG = 4096
"""How many connections may wait to be taken (the kernel's C{net.core.somaxconn} bounds it): one more waits for a second."""
_KINDS = ("tcp", "tcp6", "unix")


def endpoint(reactor: Any, description: str) -> Any:
    """
    Make the endpoint that a string describes.

    @param description: as C{serverFromString} takes it; where it names no C{backlog} that is L{BACKLOG}, not Twisted's 50.
    @raise ValueError: it describes none; also TypeError, KeyError, IndexError and OSError.
    """
    kind = description.removeprefix("haproxy:").partition(":")[0]
    if kind in _KINDS and ":backlog=" not in description:
        description += f":backlog={BACKLOG}"
    return serverFromString(reactor, description)
