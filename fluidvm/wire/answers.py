"""Answers within bounds: each of them, a boxcar's together, and all that clients haven't taken."""

from __future__ import annotations

from typing import Any

from fluidvm.model import xmlvalue
from fluidvm.model.faults import ApiFault
from fluidvm.model.xmlvalue import Pieces, render, write
from fluidvm.wire.bounds import SMALL
from fluidvm.wire.unsent import TIMEOUT, Unsent
from fluidvm.wire.xmlrpc import frame_answer

RESERVE = 1024
"""Bytes that are kept free for each call of a boxcar which hasn't run yet: an id, a fault."""
_NO_ROOM = (
    f"With this answer, the answer of system.multicall would exceed {xmlvalue.LONGEST // 2**20} MiB: use limit and after, "
    "or send this call separately."
)


class Confidential(bytes):
    """An answer with a secret in it: its length mustn't tell how much it has in common with what somebody else chose."""

    __slots__ = ()


def document(value: Any, unsent: Unsent, address: str) -> bytes | Pieces:
    """
    Write a method's answer.

    @param value: what L{fluidvm.model.xmlvalue.render} takes.
    @param address: the client's.
    @return: the C{methodResponse} document; if there is no room for it, its pieces, for L{when_there_is_room}.
    @raise TooLarge: it is over the limit.
    """
    pieces = Pieces()
    size = write(value, pieces)
    if size <= SMALL or unsent.has_room(address, size):
        return frame_answer(pieces.parts)
    return pieces


async def when_there_is_room(pieces: Pieces, unsent: Unsent, address: str) -> bytes:
    """
    Wait until an answer may be joined and sent.

    @return: the document.
    @raise Unavailable: it takes too long.
    """
    await unsent.room(address, pieces.size)
    return frame_answer(pieces.parts)


class Boxcar:
    """
    The answers of a boxcar's calls. While they are gathered, they count as others that aren't sent.

    @param calls: how many there are.
    """

    def __init__(self, unsent: Unsent, address: str, calls: int) -> None:
        self._unsent = unsent
        self._address = address
        self._left = calls
        self._counted = 0
        self._patience = TIMEOUT
        self._parts: list[bytes] = [b"<value><array><data>"]
        self._size = len(self._parts[0])

    def next(self) -> None:
        """The next call begins. Its answer or fault is added."""
        self._left -= 1

    async def add(self, value: Any) -> None:
        """
        Add a call's answer.

        @raise TooLarge: it doesn't fit in.
        @raise Unavailable: too many bytes wait for other clients.
        """
        free = xmlvalue.LONGEST - self._size - RESERVE * (self._left + 1)
        found = Pieces(max(free, RESERVE), _NO_ROOM)
        found.parts.append(b"<value><array><data>")
        write(value, found)
        found.parts.append(b"</data></array></value>")
        size = found.count()
        uncounted = self._size + size - self._counted
        if uncounted > SMALL:
            if size > RESERVE:  # the id that a task call returns is never lost
                patience, self._patience = self._patience, 0.0  # once in vain is enough for all calls of a boxcar
                await self._unsent.room(self._address, uncounted, patience)
                self._patience = patience
            self._unsent.take(self._address, uncounted)
            self._counted += uncounted
        self._parts += found.parts
        self._size += size

    def refuse(self, fault: ApiFault) -> None:
        """Add a fault in place of an answer."""
        words = fault.faultString
        part = render({"faultCode": fault.faultCode, "faultString": words})
        if self._size + len(part) + RESERVE * (self._left + 1) > xmlvalue.LONGEST:
            part = render({"faultCode": fault.faultCode, "faultString": words[:100]})
        self._parts.append(part)
        self._size += len(part)

    def document(self) -> bytes:
        """The answer of the whole boxcar."""
        return frame_answer((*self._parts, b"</data></array></value>"))

    def close(self) -> None:
        """It isn't gathered any more: whoever sends it counts it."""
        if self._counted:
            self._unsent.give(self._address, self._counted)
            self._counted = 0
