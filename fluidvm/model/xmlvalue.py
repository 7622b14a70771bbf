"""
Renders values as XML-RPC C{<value>} elements.

Only the types of the XML-RPC specification (U{http://xmlrpc.com/spec.md}) are written: no C{nil}, no C{i8}.
This module is in the lowest room because the inventory caches the rendered form of objects.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from fluidvm.model.faults import TooLarge

LONGEST = 64 * 2**20
"""Maximum size of one answer in bytes."""
AT_ONCE = 128
"""Number of pieces of an answer whose sizes are added up at a time."""
_TOO_LONG = f"This answer is over the limit of {LONGEST // 2**20} MiB: use limit and after to get it in parts."
INT_LOW, INT_HIGH = -(2**31), 2**31 - 1
LATEST = 253402300799.0
"""Seconds since the epoch: the end of the year 9999."""

# XML 1.0, section 2.2: characters outside of Char can't be sent at all, not even as a reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Rendered(bytes):
    """Bytes that are already a complete C{<value>} element."""

    __slots__ = ()


class Members:
    """
    The members of an array, rendered before or during writing. If rendered lazily, a list that is too long stops early.

    @param rendered: their C{<value>} elements.
    """

    __slots__ = ("rendered",)

    def __init__(self, rendered: Iterable[bytes]) -> None:
        self.rendered = rendered


class Pieces:
    """
    Collects the pieces of an answer, which are joined once, at the end.

    Their sizes are added up in batches, which costs a tenth of adding up each one.

    @ivar parts: the pieces.
    @ivar size: the size of the counted pieces, in bytes.
    @ivar due: the number of pieces at which the next count is due.
    @param most: maximum size in bytes; default: L{LONGEST}.
    @param refusal: the text of the fault if the size is exceeded.
    """

    size = 0
    due = AT_ONCE
    _counted = 0

    def __init__(self, most: int | None = None, refusal: str = _TOO_LONG) -> None:
        self.parts: list[bytes] = []
        self._most = LONGEST if most is None else most
        self._refusal = refusal

    def count(self) -> int:
        """
        Count the pieces added since the last count.

        @return: the size of all pieces, in bytes.
        @raise TooLarge: the maximum size is exceeded.
        """
        parts = self.parts
        self.size += sum(map(len, parts[self._counted :] if self._counted else parts))
        self._counted = len(parts)
        self.due = self._counted + AT_ONCE
        if self.size > self._most:
            raise TooLarge(self._refusal)
        return self.size


def text(value: str) -> bytes:
    """
    Escape a string for the content of an element.

    Characters that XML can't represent become U+FFFD. A carriage return is written as a reference; otherwise parsers would
    turn it into a newline (XML 1.0, section 2.11).
    """
    if not value.isascii() or not value.isprintable():
        value = _FORBIDDEN.sub("\ufffd", value)
        if "\r" in value:
            return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;").encode()
    if "&" in value or "<" in value or ">" in value:
        value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return value.encode()


def carries(value: str) -> bool:
    """Whether XML can represent every character of a string."""
    return _FORBIDDEN.search(value) is None


def clean(value: str) -> str:
    """Replace each character that XML can't represent with U+FFFD; some databases don't accept some of them either."""
    return value if value.isascii() and value.isprintable() else _FORBIDDEN.sub("\ufffd", value)


def total(value: int) -> int | float:
    """The wire form of a sum: a double if it needs more than 32 bits, as sums can."""
    return value if INT_LOW <= value <= INT_HIGH else float(value)


def moment(value: float) -> datetime:
    """
    The wire form of a point in time: UTC, in whole seconds.

    @param value: seconds since the epoch; values out of range become the first or the last possible date.
    """
    return datetime.fromtimestamp(int(max(0.0, min(LATEST, value))), UTC)


def render(value: Any) -> bytes:
    """
    Render any value that the protocol allows.

    @param value: C{bool}, C{int} (32 bit), C{float} (finite), C{str}, C{bytes}, a C{datetime} (converted to UTC; a naive one
        is UTC), a list or tuple, a dict with string keys (keys whose value is C{None} are left out), L{Rendered} or
        L{Members}.
    @return: the C{<value>} element.
    @raise TypeError: for anything else, and for a key that is not a string.
    @raise OverflowError: for an int that doesn't fit into 32 bits, or a double that is not finite.
    """
    parts: list[bytes] = []
    _render(value, parts.append, None)
    return b"".join(parts)


def write(value: Any, pieces: Pieces) -> int:
    """
    Render a value piece by piece.

    @param value: any value that L{render} accepts.
    @return: the size of all pieces so far, in bytes.
    @raise TooLarge: the maximum size of C{pieces} is exceeded.
    @raise TypeError: as L{render}.
    @raise OverflowError: as L{render}.
    """
    _render(value, pieces.parts.append, pieces)
    return pieces.count()


def _render(value: Any, put: Any, pieces: Pieces | None) -> None:
    kind = type(value)
    if kind is str:
        put(b"<value><string>" + text(value) + b"</string></value>")
    elif kind is bool:
        put(b"<value><boolean>1</boolean></value>" if value else b"<value><boolean>0</boolean></value>")
    elif kind is int:
        if not INT_LOW <= value <= INT_HIGH:
            raise OverflowError("an XML-RPC int has 32 bits")
        put(b"<value><int>%d</int></value>" % value)
    elif kind is Rendered:
        put(value)
    elif kind is dict:
        put(b"<value><struct>")
        for key, member in value.items():
            if member is not None:
                if not isinstance(key, str):
                    raise TypeError("the name of a struct's member must be a string")
                put(b"<member><name>" + text(key) + b"</name>")
                _render(member, put, pieces)
                put(b"</member>")
        put(b"</struct></value>")
    elif kind is list or kind is tuple:
        put(b"<value><array><data>")
        for member in value:
            _render(member, put, pieces)
            if pieces is not None and len(pieces.parts) > pieces.due:
                pieces.count()
        put(b"</data></array></value>")
    elif kind is Members:
        put(b"<value><array><data>")
        for place, member in enumerate(value.rendered):
            put(member)
            if not place % AT_ONCE and pieces is not None:
                pieces.count()
        put(b"</data></array></value>")
    elif kind is float:
        put(b"<value><double>" + _double(value) + b"</double></value>")
    elif kind is datetime:
        if value.tzinfo is not None:
            value = value.astimezone(UTC)
        # Not strftime: its %Y leaves out the leading zeros of early years.
        stamp = b"%04d%02d%02dT%02d:%02d:%02d" % value.timetuple()[:6]
        put(b"<value><dateTime.iso8601>" + stamp + b"</dateTime.iso8601></value>")
    elif kind is bytes:
        put(b"<value><base64>" + base64.b64encode(value) + b"</base64></value>")
    elif isinstance(value, str):  # members of an Enum of strings
        _render(str.__str__(value), put, pieces)  # str() of an Enum's member is its name
    else:
        raise TypeError(f"{kind.__name__} has no XML-RPC type")


def _double(value: float) -> bytes:
    if value != value or value in (float("inf"), float("-inf")):
        raise OverflowError("an XML-RPC double must be a finite number")
    return format(Decimal(repr(value)), "f").encode()  # the specification allows no exponents
