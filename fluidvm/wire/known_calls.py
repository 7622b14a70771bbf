"""
Calls whose heads are known: they are read without the parser.

A client's headers are the same in each of its calls, and reading them costs more than the call. So the site remembers heads
(all bytes up to the body) of calls that had nothing special in them, and how long the body was. What begins with such a head
is a call; everything else, and each head's first time, goes through the parser.
"""

from __future__ import annotations

from fluidvm.wire import bounds
from fluidvm.wire.forms import Form

Heads = dict[bytes, tuple[int, Form]]
"""Heads that are known: how many bytes of body follow, and in which form the body and its answer are."""


class KnownCalls:
    """
    Recognises calls on one connection.

    @ivar unknown: the head that the parser reads now, if it could become a known one; else empty.
    @param heads: the known ones; they grow meanwhile. C{None}: nothing is recognised.
    """

    __slots__ = ("_heads", "_missing", "_parts", "unknown")

    def __init__(self, heads: Heads | None) -> None:
        self.unknown = b""
        self._heads = heads
        self._parts: list[bytes] = []
        self._missing = 0

    def find(self, data: bytes) -> tuple[int, int, Form] | None:
        """
        Look whether a known call begins here.

        @param data: what came first of a request.
        @return: where its body begins, where it ends (perhaps beyond what has come), and its form; C{None}: the parser has
            to read it.
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
        """Keep the first part of a call. @param missing: bytes that still have to come."""
        self._parts = [data]
        self._missing = missing

    def add(self, data: bytes) -> bytes | None:
        """Take in the next part of it. @return: C{None} while some is missing, else the call and what came after it."""
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
        """Don't learn the head that the parser reads now: it has come to its end."""
        self.unknown = b""
