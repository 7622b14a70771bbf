"""Size limits of answers: of each answer, of a boxcar's answers together, and of all answers not sent yet."""

from __future__ import annotations

from typing import Any

from fluidvm.model import xmlvalue
from fluidvm.model.faults import ApiFault
from fluidvm.model.xmlvalue import Pieces, render, write
from fluidvm.wire.bounds import SMALL
from fluidvm.wire.unsent import TIMEOUT, Unsent
from fluidvm.wire.xmlrpc import frame_answer

RESERVE = 1024
"""Bytes that are reserved for each call of a boxcar that has not run yet: enough for an id or a fault."""
_NO_ROOM = (
    f"With this answer, the answer of system.multicall would exceed {xmlvalue.LONGEST // 2**20} MiB: use limit and after, "
    "or send this call separately."
)


class Confidential(bytes):
    """An answer with a secret. It must not be compressed: the length would reveal what it shares with text of others."""

    __slots__ = ()


def document(value: Any, unsent: Unsent, address: str) -> bytes | Pieces:
    """
    Write the answer of a method.

    @param value: as for L{fluidvm.model.xmlvalue.render}.
    @param address: the address of the client.
    @return: the C{methodResponse} document; or, if there is no room for it now, its pieces for L{when_there_is_room}.
    @raise TooLarge: the answer exceeds the limit.
    """
    pieces = Pieces()
    size = write(value, pieces)
    if size <= SMALL or unsent.has_room(address, size):
        return frame_answer(pieces.parts)
    return pieces


async def when_there_is_room(pieces: Pieces, unsent: Unsent, address: str) -> bytes:
    """
    Wait until there is room for an answer, and join its pieces.

    @return: the document.
    @raise Unavailable: there is no room in time.
    """
    await unsent.room(address, pieces.size)
    return frame_answer(pieces.parts)


class Boxcar:
    """
    Collects the answers of the calls in a boxcar (C{system.multicall}). They count as unsent meanwhile.

    @param calls: the number of calls.
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
        """Begin the next call, whose answer or fault will be added."""
        self._left -= 1

    async def add(self, value: Any) -> None:
        """
        Add the answer of a call.

        @raise TooLarge: the answers together would exceed the limit.
        @raise Unavailable: too many bytes are waiting for other clients.
        """
        free = xmlvalue.LONGEST - self._size - RESERVE * (self._left + 1)
        found = Pieces(max(free, RESERVE), _NO_ROOM)
        found.parts.append(b"<value><array><data>")
        write(value, found)
        found.parts.append(b"</data></array></value>")
        size = found.count()
        uncounted = self._size + size - self._counted
        if uncounted > SMALL:
            if size > RESERVE:  # never refuse a small answer: the id of a task call must not be lost
                patience, self._patience = self._patience, 0.0  # after one timeout, the boxcar's other calls don't wait
                await self._unsent.room(self._address, uncounted, patience)
                self._patience = patience
            self._unsent.take(self._address, uncounted)
            self._counted += uncounted
        self._parts += found.parts
        self._size += size

    def refuse(self, fault: ApiFault) -> None:
        """Add a fault instead of an answer."""
        words = fault.faultString
        part = render({"faultCode": fault.faultCode, "faultString": words})
        if self._size + len(part) + RESERVE * (self._left + 1) > xmlvalue.LONGEST:
            part = render({"faultCode": fault.faultCode, "faultString": words[:100]})
        self._parts.append(part)
        self._size += len(part)

    def document(self) -> bytes:
        """Return the answer of the whole boxcar."""
        return frame_answer((*self._parts, b"</data></array></value>"))

    def close(self) -> None:
        """Stop counting the bytes here: the sender counts them from now on."""
        if self._counted:
            self._unsent.give(self._address, self._counted)
            self._counted = 0
