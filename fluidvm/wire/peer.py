"""Who is at the other end of a connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """
    The client of a connection.

    @ivar address: its IP address without the port; C{"local"} for a client on a UNIX socket.
    @ivar tls: whether the connection is encrypted.
    @ivar certificate: the client's certificate (an C{OpenSSL.crypto.X509}), or C{None} where it showed none.
    """

    address: str
    tls: bool = False
    certificate: object | None = None
