"""
One value as the bytes of its XML-RPC C{<value>} element.

Only the types of the XML-RPC specification (U{http://xmlrpc.com/spec.md}) are ever written: no C{nil}, no C{i8}.
It stands below everything because objects keep their rendered form.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

INT_LOW, INT_HIGH = -(2**31), 2**31 - 1
LATEST = 253402300799.0
"""Seconds since the epoch: the end of the year 9999."""

# XML 1.0, section 2.2: what is left out of Char can't be sent at all, not even as a reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Rendered(bytes):
    """Bytes that are a whole C{<value>} element already."""

    __slots__ = ()


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
        is UTC), a list or tuple, a dict with string keys (keys whose value is C{None} are left out), or L{Rendered}.
    @return: the C{<value>} element.
    @raise TypeError: for anything else, and for a key that is no string.
    @raise OverflowError: for an int that 32 bits don't hold, or a double that is no number.
    """
    parts: list[bytes] = []
    _render(value, parts.append)
    return b"".join(parts)


def _render(value: Any, put: Any) -> None:
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
                _render(member, put)
                put(b"</member>")
        put(b"</struct></value>")
    elif kind is list or kind is tuple:
        put(b"<value><array><data>")
        for member in value:
            _render(member, put)
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
        _render(str.__str__(value), put)  # str() of an Enum's member is its name
    else:
        raise TypeError(f"{kind.__name__} has no XML-RPC type")


def _double(value: float) -> bytes:
    if value != value or value in (float("inf"), float("-inf")):
        raise OverflowError("a double of XML-RPC is a finite number")
    return format(Decimal(repr(value)), "f").encode()  # the specification has no exponents
