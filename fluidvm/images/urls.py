"""From where images may be fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urljoin

from fluidvm.model.faults import Forbidden

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[\x21-\x7e]*?)?(?P<query>\?[\x21-\x7e]*?)?(?:\#[\x21-\x7e]*)?",
    re.IGNORECASE | re.ASCII,
)
_PORTS = {"http": 80, "https": 443}
LONGEST = 2000
"""Characters that a URL may have."""
SHOWN = 200
"""Characters of a URL that a fault shows."""
DEEPEST = 8
"""How often a URL's path may be percent-encoded over and over."""
_Parts = tuple[str, str, int, str]
"""Scheme, host, port; path with query."""


def _parts(url: str) -> _Parts:
    """
    Take a URL apart.

    Only what every reader takes apart in the same way passes: no user name, no backslash, no control character, and no
    segment of dots, however often it is percent-encoded (a server may decode more often than it should).

    @raise ValueError: it says why not.
    """
    found = _URL.fullmatch(url) if len(url) <= LONGEST else None
    if found is None or int(found["port"] or 0) > 65535:
        raise ValueError(f"it must be http:// or https:// with a host and a path, in at most {LONGEST} characters")
    scheme, host, path = found["scheme"].lower(), found["host"].lower(), found["path"] or "/"
    port = int(found["port"] or _PORTS[scheme])
    before, after = "", path
    for _ in range(DEEPEST):
        if before == after:
            return scheme, host, port, path + (found["query"] or "")
        if re.search(r"[\x00-\x1f\x7f\\]", after):
            raise ValueError("its path contains a backslash or a control character")
        # Some servers drop what follows a semicolon before they look at a segment.
        if any(segment.partition(";")[0] in (".", "..") for segment in after.split("/")):
            raise ValueError("its path contains a . or .. segment")
        before, after = after, unquote(after, "latin-1")
    raise ValueError("its path is percent-encoded too many times")


class ImageUrls:
    """
    The beginnings of URLs that the administrator allows.

    @param allowed: each a URL with a host and a path; compared are scheme, host and port, whatever their case, and how the
        path with its query begins.
    @raise ValueError: one of them is no such URL.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = [_parts(url) for url in allowed]

    def admit(self, url: str) -> str:
        """
        Check a URL.

        @return: the same in the form that was compared: ask for this one.
        @raise Forbidden: images may not be fetched from there.
        """
        shown = f'"{(url if len(url) <= SHOWN else url[:SHOWN] + "...").replace(chr(34), "%22")}"'
        try:
            *origin, target = _parts(url)
        except ValueError as error:
            raise Forbidden(f"spec.url: fetching images from {shown} is not allowed: {error}.") from None
        for *allowed_origin, begin in self._allowed:
            if origin == allowed_origin and target.startswith(begin):
                scheme, host, port = origin
                return f"{scheme}://{host}{'' if port == _PORTS[str(scheme)] else f':{port}'}{target}"
        raise Forbidden(f"spec.url: fetching images from {shown} is not allowed; --image-urls lists what is allowed.")

    def follow(self, url: str, location: str) -> str:
        """
        Check where a redirection leads, as L{admit} does.

        @param url: what was asked for.
        @param location: the answer's header Location; it can be relative.
        """
        try:
            joined = urljoin(url, location)
        except ValueError:
            joined = location
        return self.admit(joined)
