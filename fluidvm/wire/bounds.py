"""What clients may send and hold, and how long they may take."""

from __future__ import annotations

from dataclasses import dataclass

MOST_DISCARDED = 64 * 2**20
"""Bytes of a body over the limit that are read and thrown away so that a blocking client gets to reading the answer."""

LINGER = 5.0
"""Seconds that a client which is still sending has to read the answer before its connection is closed."""

SMALL = 2**14
"""Bytes of an answer that goes out, and of a request that comes in, however much others hold."""

LONGEST_HEAD = 1024
"""Bytes of a head that is remembered."""


@dataclass(frozen=True)
class Bounds:
    """
    What clients may do; sizes in bytes, times in seconds.

    @ivar max_request: the body of one request.
    @ivar connections: open at the same time.
    @ivar connections_per_address: open at the same time from one address.
    @ivar header_time: from a connection's or a request's first byte to the end of the headers.
    @ivar body_time: from there to the end of the body.
    @ivar idle_time: between two requests.
    @ivar send_time: for the client to take an answer that fills the socket's buffers.
    @ivar unfinished: of requests' bodies that haven't come to their end, over all connections.
    @ivar unsent: of answers that clients haven't taken, over all connections. Beside these a connection holds at most
        64 KiB in its transport and a small answer.
    """

    max_request: int = 2**20
    connections: int = 20000
    connections_per_address: int = 1000
    header_time: float = 15.0
    body_time: float = 60.0
    idle_time: float = 75.0
    send_time: float = 120.0
    unfinished: int = 256 * 2**20
    unsent: int = 256 * 2**20
