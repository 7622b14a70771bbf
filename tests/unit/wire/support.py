"""A site over a transport in memory."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.wire.channel import Channel
from fluidvm.wire.peer import Peer
from fluidvm.wire.site import Site, make_site
from fluidvm.wire.xmlrpc import render_answer

CALL = xmlrpc.client.dumps((5,), "m").encode()


class Dispatcher:
    """Answers with the body's length, or with what it has been told."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.peers: list[Peer] = []
        self.answers: list[Any] = []

    def dispatch(self, body: bytes, peer: Peer) -> Any:
        self.bodies.append(body)
        self.peers.append(peer)
        answer = self.answers.pop(0) if self.answers else render_answer(len(body))
        if isinstance(answer, Exception):
            raise answer
        return answer


class Transport(StringTransport):
    """Tells its producer to pause, and can be aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


def post(body: bytes = CALL, headers: bytes = b"Content-Type: text/xml\r\n", path: bytes = b"/RPC2") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (path, headers, len(body), body)


def answers(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Take a stream apart into its answers; fails if anything is left."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        assert len(data) >= length
        found.append((int(first.split()[1]), headers, data[:length]))
        data = data[length:]
    return found


class SiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.dispatcher = Dispatcher()
        self.health: Any = (True, {"status": "ok", "reasons": []})
        self.channels: list[tuple[Channel, Transport]] = []

    def site(self, **options: Any) -> Site:
        def health() -> Any:
            if isinstance(self.health, Exception):
                raise self.health
            return self.health

        return make_site(self.dispatcher, health, reactor=self.clock, **options)

    def connect(self, site: Site, host: str = "10.0.0.1") -> tuple[Channel, Transport]:
        kind = IPv6Address if ":" in host else IPv4Address
        transport = Transport(peerAddress=kind("TCP", host, 4000))
        channel: Any = site.buildProtocol(transport.getPeer())
        channel.makeConnection(transport)
        self.channels.append((channel, transport))
        return channel, transport

    def ask(self, data: bytes, pieces: int = 1, **options: Any) -> list[tuple[int, dict[str, str], bytes]]:
        channel, transport = self.connect(self.site(**options))
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            channel.dataReceived(data[start : start + size])
        return answers(transport.value())

    def one(self, data: bytes, **options: Any) -> tuple[int, dict[str, str], bytes]:
        (answer,) = self.ask(data, **options)
        return answer

    def fault(self, answer: tuple[int, dict[str, str], bytes]) -> int:
        self.assertEqual((answer[0], answer[1]["content-type"]), (200, "text/xml"))
        fault = self.assertRaises(xmlrpc.client.Fault, xmlrpc.client.loads, answer[2])
        return int(fault.faultCode)
