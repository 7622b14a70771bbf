"""The URLs that images may be fetched from."""

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
"""Maximum number of characters of a URL."""
SHOWN = 200
"""Maximum number of characters of a URL that a fault shows."""
DEEPEST = 8
"""How many times the path of a URL may be percent-encoded."""
_Parts = tuple[str, str, int, str]
"""Scheme, host, port; path with query."""


def _parts(url: str) -> _Parts:
    """
    Split a URL.

    Only URLs that every parser splits in the same way are accepted: without a user name, a backslash, a control character,
    or a C{.} or C{..} segment, however often it is percent-encoded (a server may decode more often than it should).

    @raise ValueError: the URL is not accepted; the message says why.
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
    The URL prefixes that the administrator allows.

    @param allowed: URLs with a host and a path. Scheme, host and port must be equal, in any case; the path with its query
        must start with that of the prefix.
    @raise ValueError: one of them is not such a URL.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = [_parts(url) for url in allowed]

    def admit(self, url: str) -> str:
        """
        Check a URL.

        @return: the normalized URL, which must be used for the request.
        @raise Forbidden: the URL is not allowed.
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
        Check the target of a redirect like L{admit}.

        @param url: the URL that was requested.
        @param location: the header C{Location} of the response; it can be relative.
        """
        try:
            joined = urljoin(url, location)
        except ValueError:
            joined = location
        return self.admit(joined)
