"""Clients behind proxies: which proxies are trusted to report the address of a client, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

FORWARDED = b"Forwarded"
HEADERS = {"forwarded": FORWARDED, "x-forwarded-for": b"X-Forwarded-For"}
"""The headers that can report the client, by the value of the option."""
# RFC 7239, section 4: pairs of a token and a token or a quoted string, separated by semicolons; elements by commas.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_PAIR = re.compile(rf'({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*")')
_SEPARATOR = re.compile(r"[ \t]*([;,])[ \t]*")
# Section 6: an address, an IPv6 one in brackets, with a port or without.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")


class Proxies:
    """
    The proxies that are trusted to report the addresses of their clients.

    @param networks: their addresses and networks; C{local} is a UNIX socket.
    @param header: which of L{HEADERS} they set. The other one is ignored, because clients can send it themselves.
    """

    def __init__(self, networks: Iterable[str], header: str) -> None:
        words = list(networks)
        self.header = HEADERS[header]
        self._local = "local" in words
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(word, strict=False) for word in words if word != "local"
        ]

    def trusts(self, address: str) -> bool:
        """Tell whether an address belongs to a trusted proxy."""
        if address == "local":
            return self._local
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def client(self, address: str, values: Iterable[bytes]) -> str:
        """
        Return the address of the client behind a trusted proxy.

        The header is read from the right: each trusted proxy appends the address that connected to it. What precedes the
        first address that is not trusted may be forged.

        @param address: the address of the proxy.
        @param values: the values of the header.
        @return: the address of the client; if it is not reported, that of the proxy nearest to it.
        """
        text = ",".join(value.decode("latin-1") for value in values)
        told = _forwarded(text) if self.header == FORWARDED else [part.strip() for part in text.split(",") if part.strip()]
        for node in reversed(told):
            found = _address(node)
            if found is None:
                break
            address = found
            if not self.trusts(found):
                break
        return address


def _forwarded(text: str) -> list[str]:
    """Return the nodes in the C{for} parameters of the elements; nothing if the header is malformed."""
    nodes: list[str] = []
    node, place = "", 0
    while place < len(text):
        pair = _PAIR.match(text, place)
        if pair is None:
            return []
        if pair[1].lower() == "for":
            node = re.sub(r"\\(.)", r"\1", pair[2][1:-1]) if pair[2].startswith('"') else pair[2]
        place = pair.end()
        if place < len(text):
            separator = _SEPARATOR.match(text, place)
            if separator is None:
                return []
            place = separator.end()
            if separator[1] == ";":
                continue
        nodes.append(node)
        node = ""
    return nodes


def _address(node: str) -> str | None:
    found = _NODE.fullmatch(node)
    word = node if found is None else found[1] or found[2]
    try:
        address = ip_address(word)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
