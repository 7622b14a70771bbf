"""What the head of a request must have before anything else is checked (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Section 3.2.2: clients send this form to proxies, and servers must accept it too.
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
# RFC 3986, section 3.2, without user names.
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")

Refusal = tuple[int, bytes]
"""HTTP's status and a line of text."""
_NO_HOST: Refusal = (400, b"Send exactly one Host header, with the name or address of the host.\n")
_NO_LENGTH: Refusal = (411, b"Send POST and PUT with a Content-Length, or in chunks.\n")


def origin_form(target: bytes) -> tuple[bytes, bytes | None]:
    """
    Parse the target of a request.

    @param target: C{/path?query} or C{http://host/path?query}.
    @return: C{/path?query}, and the host if the target names one.
    """
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return target, None
    host, rest = found.groups()
    return (rest if rest.startswith(b"/") else b"/" + rest), host


def refusal(method: bytes, version: bytes, hosts: Sequence[bytes], named: bytes | None, has_length: bool) -> Refusal | None:
    """
    Check the head of a request.

    @param hosts: the values of its Host headers.
    @param named: the host that its target names, if any.
    @param has_length: whether the head states how long the body is, or that it is chunked.
    @return: why the request is refused; C{None} if it is not.
    """
    few = len(hosts) == 1 if version == b"HTTP/1.1" else len(hosts) <= 1
    if not few or named == b"" or any(_HOST.fullmatch(host) is None for host in (*hosts, named or b"")):
        return _NO_HOST
    if method in (b"POST", b"PUT") and not has_length:
        return _NO_LENGTH
    return None
