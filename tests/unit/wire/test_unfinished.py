"""Incomplete requests: the limit on their memory."""

from __future__ import annotations

import xmlrpc.client
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from fluidvm.wire.bounds import SMALL
from fluidvm.wire.tls import Certificates, TLSFiles
from fluidvm.wire.unsent import Room
from tests.authority import Authority

from .support import SiteTests, Transport, answers, post

BODY = b"x" * 2**16
HEAD = b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\n"


class UnfinishedTests(SiteTests):
    def setUp(self) -> None:
        super().setUp()
        self.on: Any = self.site()
        self.on.unfinished = Room(2**20)
        # So that the head of a call is cached.
        self.connect(self.on)[0].dataReceived(post(BODY))

    def begin(self, data: bytes, host: str = "10.0.0.1") -> tuple[Any, Any]:
        channel, transport = self.connect(self.on, host)
        channel.dataReceived(data)
        return channel, transport

    def check(self, unfinished: bytes, rest: bytes) -> None:
        """Fill the room of one address, then of all, with requests that are almost complete."""
        kept = []
        for host in ("10.0.0.1", "10.0.0.2"):
            for _ in range(30):
                channel, transport = self.begin(unfinished, host)
                if transport.value():
                    break
                kept.append((channel, transport))
            (answer,) = answers(transport.value())
            self.assertEqual((answer[0], answer[1]["connection"]), (503, "close"))
            self.assertLessEqual(self.on.unfinished.held, 2**20)
        self.assertIn(len(kept), range(14, 19))
        # Small requests are accepted, and the pending ones can be completed.
        self.assertEqual(answers(self.begin(post(b"y" * SMALL), "10.0.0.1")[1].value())[0][0], 200)
        for channel, transport in kept:
            channel.dataReceived(rest)
            (answer,) = answers(transport.value())
            self.assertEqual(answer[0], 200)
            self.assertEqual(xmlrpc.client.loads(answer[2])[0][0], len(BODY))
        self.assertEqual(self.on.unfinished.held, 0)
        self.assertEqual(answers(self.begin(post(BODY), "10.0.0.1")[1].value())[0][0], 200)

    def test_with_a_cached_head(self) -> None:
        self.check(post(BODY)[:-2], b"xx")

    def test_with_another_head(self) -> None:
        self.check(HEAD + b"X-Other: 1\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY[:-2]), b"xx")

    def test_in_chunks(self) -> None:
        chunk = b"1000\r\n" + b"x" * 2**12 + b"\r\n"
        self.check(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 16, b"0\r\n\r\n")

    def test_disconnected_or_too_slow(self) -> None:
        for known in (post(BODY)[:-2], HEAD + b"X-A: 1\r\nContent-Length: 65536\r\n\r\n" + BODY[:-2]):
            channel, _ = self.begin(known)
            self.assertGreater(self.on.unfinished.held, 60000)
            channel.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(self.on.unfinished.held, 0)
            channel, transport = self.begin(known)
            self.clock.pump([1] * 62)
            self.assertEqual(answers(transport.value())[0][0], 408)
            self.clock.pump([1] * 10)
            channel.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(self.on.unfinished.held, 0)

    def test_too_large(self) -> None:
        self.on = self.site(max_request=1000)
        self.begin(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"200\r\n" + b"x" * 512 + b"\r\n" + b"1000\r\n" + b"x" * 4096
        )
        self.assertEqual(self.on.unfinished.held, 0)


class HandshakeTests(SiteTests):
    def test_a_tls_handshake_that_never_ends(self) -> None:
        """It has the time limit of request headers, even if bytes keep trickling in."""
        directory = Path(self.mktemp())
        directory.mkdir()
        site = self.site()
        certificates = Certificates(TLSFiles(*Authority(directory).issue("server")))
        factory = TLSMemoryBIOFactory(certificates, False, site, clock=self.clock)
        transport: Any = Transport(peerAddress=IPv4Address("TCP", "10.0.0.1", 4000))
        transport.setTcpNoDelay = lambda enabled: None
        channel: Any = factory.buildProtocol(transport.getPeer())
        channel.makeConnection(transport)
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
        for byte in hello[:14]:
            channel.dataReceived(bytes([byte]))
            self.clock.advance(1)
            self.assertFalse(transport.aborted)
        self.assertEqual(site.connections, 1)
        self.clock.pump([1] * 2)
        self.assertTrue(transport.aborted)
