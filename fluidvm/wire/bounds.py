"""Limits on what clients may send and occupy, and on how long they may take."""

from __future__ import annotations

from dataclasses import dataclass

MOST_DISCARDED = 64 * 2**20
"""Bytes of an oversized body that are read and discarded, so that a blocking client gets to read the answer."""

LINGER = 5.0
"""Seconds that a client that is still sending has to read the answer before its connection is closed."""

SMALL = 2**14
"""Bytes of an answer or a request that are always accepted, however much memory other clients occupy."""

LONGEST_HEAD = 1024
"""Maximum size in bytes of a request head that is cached."""


@dataclass(frozen=True)
class Bounds:
    """
    Limits for clients; sizes in bytes, times in seconds.

    @ivar max_request: the body of one request.
    @ivar connections: open at the same time.
    @ivar connections_per_address: open at the same time from one address.
    @ivar header_time: from the first byte of a connection or a request to the end of the headers.
    @ivar body_time: from there to the end of the body.
    @ivar idle_time: between two requests.
    @ivar send_time: for the client to read an answer that fills the buffers of the socket.
    @ivar unfinished: incomplete request bodies, over all connections.
    @ivar unsent: answers that clients have not read, over all connections. In addition, a connection holds at most
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
