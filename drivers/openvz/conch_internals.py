"""
What the SSH runner uses of conch beyond its public API, under names of its own.

No other module uses an undocumented name of conch. L{INTERNALS} lists all of them, and what depends on each.
C{tests/unit/drivers/openvz/test_conch_internals.py} compares the list with the conch that is installed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from twisted.conch.ssh.channel import SSHChannel
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher

_WARNINGS = Logger(
    "fluidvm.drivers.openvz.ssh",
    observer=FilteringLogObserver(globalLogPublisher, [LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)]),
)
"""In place of conch's own loggers, which write six lines about each command."""


class Internal(NamedTuple):
    """
    One name that conch doesn't document, or calls private.

    @ivar owner: the class of conch's that has it, as a dotted name.
    @ivar expected: a method's signature; an attribute's type.
    @ivar used_for: what of FluidVM depends on it.
    """

    owner: str
    name: str
    expected: str | type
    used_for: str


class Channel(SSHChannel):
    """A channel that logs warnings only."""

    conn: Any
    _log = _WARNINGS

    @property
    def all_sent(self) -> bool:
        """Whether conch has sent everything that was written: the node's window had room for it."""
        return not self.buf


class Connection:
    """
    The connection that carries a command's channel, and channels for more commands.

    @param channel: the transport of the protocol that C{SSHCommandClientEndpoint} has connected.
    """

    def __init__(self, channel: Any) -> None:
        self._connection = channel.conn
        self._connection._log = _WARNINGS
        self._tell_channels_of_the_end(self._connection.transport)
        # Small messages wait for no acknowledgement of the ones before, which the node may delay for 40 ms at each command.
        self.tcp.setTcpNoDelay(True)

    @property
    def tcp(self) -> Any:
        """The transport of the TCP connection; C{None} after its end."""
        return self._connection.transport.transport

    def _tell_channels_of_the_end(self, transport: Any) -> None:
        # The transport of conch's endpoints doesn't do that, so channels would wait for ever (Twisted 26.10).
        conchs_own = transport.connectionLost

        def connection_lost(reason: Any = None) -> None:
            conchs_own(reason)
            self._connection.serviceStopped()

        transport.connectionLost = connection_lost

    def open(self, channel: SSHChannel) -> None:
        """Open one more channel."""
        self._connection.openChannel(channel)

    def abort(self) -> None:
        """Cut the TCP connection."""
        with suppress(AttributeError):  # conch's transport has none any more once it is disconnected
            self.tcp.abortConnection()


_QUIET = "the log has warnings about commands only"
_ENDS = "commands that run when the connection is lost fail at once"
_TCP = "a node that gives no sign of life is disconnected, and commands aren't delayed"

INTERNALS = (
    Internal("twisted.conch.ssh.channel.SSHChannel", "_log", Logger, _QUIET),
    Internal("twisted.conch.ssh.connection.SSHConnection", "_log", Logger, _QUIET),
    Internal("twisted.conch.ssh.channel.SSHChannel", "buf", bytes, "the end of a command's input is sent after all of it"),
    Internal("twisted.conch.ssh.connection.SSHConnection", "transport", object, f"{_ENDS}; {_TCP}"),
    Internal("twisted.conch.ssh.connection.SSHConnection", "serviceStopped", "(self)", _ENDS),
    Internal(
        "twisted.conch.endpoints._CommandTransport",
        "connectionLost",
        "(self, reason: 'Failure | None' = None) -> 'None'",
        _ENDS,
    ),
    Internal("twisted.conch.ssh.transport.SSHTransportBase", "transport", object, _TCP),
)
"""Every name that the runner uses and conch doesn't document."""
