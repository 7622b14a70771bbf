"""What a request's head must be like before anything else is looked at (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Section 3.2.2: what proxies are sent, and servers have to take too.
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
# RFC 3986, section 3.2, without user names.
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")

Refusal = tuple[int, bytes]
"""HTTP's status and a line of text."""
_NO_HOST: Refusal = (400, b"A request has one header Host, with a host's name or address.\n")
_NO_LENGTH: Refusal = (411, b"POST and PUT tell how long their bodies are: by Content-Length, or in chunks.\n")


def origin_form(target: bytes) -> tuple[bytes, bytes | None]:
    """
    Read a request's target.

    @param target: C{/path?query}, or that behind C{http://host}.
    @return: C{/path?query}, and the host where the target names it.
    """
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return target, None
    host, rest = found.groups()
    return (rest if rest.startswith(b"/") else b"/" + rest), host


def refusal(method: bytes, version: bytes, hosts: Sequence[bytes], named: bytes | None, has_length: bool) -> Refusal | None:
    """
    Tell why a request is refused for its head.

    @param hosts: the values of its headers C{Host}.
    @param named: the host that its target names; C{None}: it names none.
    @param has_length: whether it tells where its body ends.
    @return: C{None}: it isn't.
    """
    few = len(hosts) == 1 if version == b"HTTP/1.1" else len(hosts) <= 1
    if not few or named == b"" or any(_HOST.fullmatch(host) is None for host in (*hosts, named or b"")):
        return _NO_HOST
    if method in (b"POST", b"PUT") and not has_length:
        return _NO_LENGTH
    return None
