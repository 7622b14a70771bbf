"""The endpoints that the server listens on: Twisted's endpoint strings, with a longer backlog."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.python.lockfile import FilesystemLock

BACKLOG = 4096
"""Connections that may wait to be accepted (the kernel limits it to C{net.core.somaxconn}). Beyond this, one waits 1 s."""
_KINDS = ("tcp", "tcp6", "unix")


def endpoint(reactor: Any, description: str) -> Any:
    """
    Make the endpoint that a string describes.

    @param description: as for C{serverFromString}, but the default of C{backlog} is L{BACKLOG}, not Twisted's 50.
    @raise ValueError: the string is not valid; also TypeError, KeyError, IndexError and OSError.
    """
    if _kind(description) in _KINDS and ":backlog=" not in description:
        description += f":backlog={BACKLOG}"
    return serverFromString(reactor, description)


def try_to_bind(description: str) -> None:
    """
    Bind the address of a TCP or UNIX endpoint for a moment, as listening would. No client is answered meanwhile.

    Other kinds of endpoints aren't tried.

    @param description: one that L{endpoint} takes.
    @raise Exception: it can't be bound.
    """
    if _kind(description) in _KINDS:
        failed: list[Failure] = []
        binding: Deferred[None] = endpoint(_Binder(), description).listen(Factory())
        binding.addErrback(failed.append)
        if failed:
            failed[0].raiseException()


def _kind(description: str) -> str:
    return description.removeprefix("haproxy:").partition(":")[0]


class _Binder:
    """What an endpoint takes for a reactor: it binds, without listening, and lets go at once."""

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> None:
        """As a reactor's."""
        family, address = socket.AF_INET, (interface, port)
        if isIPv6Address(interface):
            family = socket.AF_INET6
            address = socket.getaddrinfo(interface, port, flags=socket.AI_NUMERICHOST)[0][4]  # type: ignore[assignment]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            # As Twisted sets it: a connection of the server before may not be over yet.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)

    def listenUNIX(
        self,
        address: str,
        factory: Factory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,  # noqa: N803
    ) -> None:
        """As a reactor's, with its lock beside the socket."""
        with ExitStack() as undoing:
            if wantPID:
                lock = FilesystemLock(f"{address}.lock")
                if not lock.lock():
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
                undoing.callback(lock.unlock)
                if not lock.clean:
                    _remove_socket(Path(address))
            trial = undoing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            trial.bind(address)
            if not address.startswith("\0"):
                Path(address).unlink()


def _remove_socket(path: Path) -> None:
    """Remove what a server has left that was killed."""
    with suppress(OSError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
