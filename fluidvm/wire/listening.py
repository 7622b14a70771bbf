"""The endpoints that the server listens on: Twisted's endpoint strings, with a longer backlog."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import serverFromString

BACKLOG = 4096
"""Connections that may wait to be accepted (the kernel limits it to C{net.core.somaxconn}). Beyond this, one waits 1 s."""
_KINDS = ("tcp", "tcp6", "unix")


def endpoint(reactor: Any, description: str) -> Any:
    """
    Make the endpoint that a string describes.

    @param description: as for C{serverFromString}, but the default of C{backlog} is L{BACKLOG}, not Twisted's 50.
    @raise ValueError: the string is not valid; also TypeError, KeyError, IndexError and OSError.
    """
    kind = description.removeprefix("haproxy:").partition(":")[0]
    if kind in _KINDS and ":backlog=" not in description:
        description += f":backlog={BACKLOG}"
    return serverFromString(reactor, description)
