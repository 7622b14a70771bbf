"""
One value as the bytes of its XML-RPC C{<value>} element.

Only the types of the XML-RPC specification (U{http://xmlrpc.com/spec.md}) are ever written: no C{nil}, no C{i8}.
It stands below everything because objects keep their rendered form.
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
"""Bytes that one answer may have."""
AT_ONCE = 128
"""Pieces of an answer that are counted together."""
_TOO_LONG = f"This answer is over the limit of {LONGEST // 2**20} MiB: use limit and after to get it in parts."
INT_LOW, INT_HIGH = -(2**31), 2**31 - 1
LATEST = 253402300799.0
"""Seconds since the epoch: the end of the year 9999."""

# XML 1.0, section 2.2: what is left out of Char can't be sent at all, not even as a reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Rendered(bytes):
    """Bytes that are a whole C{<value>} element already."""

    __slots__ = ()


class Members:
    """
    An array's members that are rendered already, or are while they are written: a list that is too long ends early.

    @param rendered: their C{<value>} elements.
    """

    __slots__ = ("rendered",)

    def __init__(self, rendered: Iterable[bytes]) -> None:
        self.rendered = rendered


class Pieces:
    """
    The bytes of an answer while they are gathered; they are joined once, at the end.

    They are counted some at a time, which costs a tenth of counting each.

    @ivar parts: the pieces.
    @ivar size: of those that are counted, in bytes.
    @ivar due: how many pieces there are when they are to be counted.
    @param most: bytes that there may be; default: L{LONGEST}.
    @param refusal: what the client is told when there are more.
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
        Count what has come since.

        @return: the size.
        @raise TooLarge: it is too much.
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
    A string's characters, escaped for an element's content.

    What XML can't carry becomes U+FFFD; a carriage return is written as a reference, else parsers turn it into a newline
    (XML 1.0, section 2.11).
    """
    if not value.isascii() or not value.isprintable():
        value = _FORBIDDEN.sub("\ufffd", value)
        if "\r" in value:
            return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;").encode()
    if "&" in value or "<" in value or ">" in value:
        value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return value.encode()


def carries(value: str) -> bool:
    """Tell whether XML can carry every character of a string."""
    return _FORBIDDEN.search(value) is None


def clean(value: str) -> str:
    """Put U+FFFD in the place of each character that XML can't carry; databases have trouble with some of them, too."""
    return value if value.isascii() and value.isprintable() else _FORBIDDEN.sub("\ufffd", value)


def total(value: int) -> int | float:
    """A sum as it travels: a double once it has outgrown 32 bits, which sums do where single values don't."""
    return value if INT_LOW <= value <= INT_HIGH else float(value)


def moment(value: float) -> datetime:
    """
    A point in time as it travels: UTC, whole seconds.

    @param value: seconds since the epoch; what no date has becomes the first or the last that there is.
    """
    return datetime.fromtimestamp(int(max(0.0, min(LATEST, value))), UTC)


def render(value: Any) -> bytes:
    """
    Render any value of the contract.

    @param value: C{bool}, C{int} (32 bit), C{float} (finite), C{str}, C{bytes}, a C{datetime} (converted to UTC; a naive one
        is UTC), a list or tuple, a dict with string keys (keys whose value is C{None} are left out), L{Rendered} or
        L{Members}.
    @return: the C{<value>} element.
    @raise TypeError: for anything else, and for a key that is no string.
    @raise OverflowError: for an int that 32 bits don't hold, or a double that is no number.
    """
    parts: list[bytes] = []
    _render(value, parts.append, None)
    return b"".join(parts)


def write(value: Any, pieces: Pieces) -> int:
    """
    Render a value piece by piece.

    @param value: what L{render} takes.
    @return: how many bytes there are now.
    @raise TooLarge: it is more than C{pieces} may hold.
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
            raise OverflowError("an int of XML-RPC has 32 bits")
        put(b"<value><int>%d</int></value>" % value)
    elif kind is Rendered:
        put(value)
    elif kind is dict:
        put(b"<value><struct>")
        for key, member in value.items():
            if member is not None:
                if not isinstance(key, str):
                    raise TypeError("a member's name is a string")
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
        raise OverflowError("a double of XML-RPC is a finite number")
    return format(Decimal(repr(value)), "f").encode()  # the specification has no exponents
