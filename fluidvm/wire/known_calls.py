"""
Calls whose heads are known are read without the parser.

A client sends the same headers with each of its calls, and parsing them takes longer than the call itself. So the site
remembers the heads (all bytes before the body) of ordinary calls, with the length of the body. A request that begins with a
known head is such a call. Every other request, and the first one with each head, goes through the parser.
"""

from __future__ import annotations

from fluidvm.wire import bounds
from fluidvm.wire.forms import Form

Heads = dict[bytes, tuple[int, Form]]
"""The known heads, with the length of the body in bytes, and the form of the body and its answer."""


class KnownCalls:
    """
    Recognises calls on one connection.

    @ivar unknown: the head that the parser is reading, if it may become a known one; otherwise empty.
    @param heads: the known heads; others are added later. C{None}: nothing is recognised.
    """

    __slots__ = ("_heads", "_missing", "_parts", "unknown")

    def __init__(self, heads: Heads | None) -> None:
        self.unknown = b""
        self._heads = heads
        self._parts: list[bytes] = []
        self._missing = 0

    def find(self, data: bytes) -> tuple[int, int, Form] | None:
        """
        Tell whether a known call begins here.

        @param data: the first bytes of a request.
        @return: the offsets of the beginning and the end of its body (the end may not have arrived yet), and its form.
            C{None}: the parser must read the request.
        """
        start = data.find(b"\r\n\r\n") + 4
        head = data[:start]
        heads = self._heads
        if heads is None:
            return None
        known = heads.get(head)
        if known is None:
            self.unknown = head if start <= bounds.LONGEST_HEAD and head.startswith(b"POST ") else b""
            return None
        return start, start + known[0], known[1]

    def hold(self, data: bytes, missing: int) -> None:
        """Keep the first part of a call. @param missing: the number of bytes that have not arrived yet."""
        self._parts = [data]
        self._missing = missing

    def add(self, data: bytes) -> bytes | None:
        """Add the next part. @return: C{None} while bytes are missing; then the call and the bytes after it."""
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return None
        data = b"".join(self._parts)
        self._parts = []
        return data

    def drop(self) -> None:
        """Forget the parts."""
        self._parts = []

    def forget(self) -> None:
        """Don't remember the head that the parser is reading."""
        self.unknown = b""
