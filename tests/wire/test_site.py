"""The HTTP front over a transport in memory: what it answers, and its bounds."""

from __future__ import annotations

import json
import xmlrpc.client
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.wire.channel import MOST_DISCARDED, Channel
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


class AnswerTests(SiteTests):
    def test_call(self) -> None:
        code, headers, body = self.one(post())
        self.assertEqual(code, 200)
        self.assertEqual(xmlrpc.client.loads(body), ((len(CALL),), None))
        self.assertEqual(self.dispatcher.peers, [Peer("10.0.0.1")])
        self.assertEqual(headers["content-type"], "text/xml")
        self.assertEqual(headers["server"], "FluidVM")
        self.assertEqual(headers["x-content-type-options"], "nosniff")
        self.assertEqual(headers["cache-control"], "no-store")
        self.assertIn("GMT", headers["date"])
        self.assertNotIn("connection", headers)

    def test_any_pieces(self) -> None:
        for pieces in (1, 2, 3, 7, 50, 400):
            for data in (post(), post() * 3, post(headers=b""), b"\r\n" + post()):
                self.dispatcher.bodies.clear()
                found = self.ask(data, pieces=pieces)
                self.assertEqual([answer[0] for answer in found], [200] * data.count(b"POST"))
                self.assertEqual(set(self.dispatcher.bodies), {CALL})

    def test_same_connection_again(self) -> None:
        channel, transport = self.connect(self.site())
        for size in (5, 5, 6, 0, 5):
            channel.dataReceived(post(b"x" * size))
            self.assertEqual(self.dispatcher.bodies[-1], b"x" * size)
        self.assertEqual(len(answers(transport.value())), 5)

    def test_large_answer(self) -> None:
        self.dispatcher.answers = [render_answer("x" * 2**20)]
        self.assertEqual(xmlrpc.client.loads(self.one(post())[2]), (("x" * 2**20,), None))

    def test_content_types(self) -> None:
        for kind, code in (
            (b"text/xml", 200), (b"application/xml", 200), (b"Text/XML; charset=utf-8", 200), (b"", 200),
            (b"text/plain", 415), (b"application/x-www-form-urlencoded", 415), (b"multipart/form-data", 415),
            (b"text/xml2", 415), (b"\xff", 415),
        ):  # fmt: skip
            self.assertEqual(self.one(post(headers=b"Content-Type: " + kind + b"\r\n"))[0], code, kind)
        self.assertEqual(self.one(post(headers=b""))[0], 200)
        self.assertEqual(self.one(post(headers=b"Content-Encoding: gzip\r\n"))[0], 415)

    def test_methods(self) -> None:
        for method in (b"GET", b"PUT", b"DELETE", b"OPTIONS", b"BREW"):
            code, headers, _ = self.one(method + b" /RPC2 HTTP/1.1\r\n\r\n")
            self.assertEqual((code, headers["allow"]), (405, "POST"))

    def test_nothing_elsewhere(self) -> None:
        for path in (b"/", b"/RPC2/", b"/RPC2/foo", b"/rpc2", b"//RPC2", b"*", b"/health/x", b"http://x/RPC2", b"/%52PC2"):
            code, headers, body = self.one(post(path=path))
            self.assertEqual((code, headers["content-type"]), (404, "text/plain; charset=utf-8"), path)
            self.assertLess(len(body), 100)
        self.assertEqual(self.one(post(path=b"/RPC2?x=y"))[0], 200)

    def test_health(self) -> None:
        code, headers, body = self.one(b"GET /health HTTP/1.1\r\n\r\n")
        self.assertEqual((code, headers["content-type"]), (200, "application/json"))
        self.assertEqual(json.loads(body), {"status": "ok", "reasons": []})
        self.health = (False, {"status": "failing", "reasons": ["the store fails"]})
        code, _, body = self.one(b"GET /health HTTP/1.1\r\n\r\n")
        self.assertEqual((code, json.loads(body)["reasons"]), (503, ["the store fails"]))
        self.assertEqual(self.one(post(path=b"/health"))[0], 405)

    def test_health_fails(self) -> None:
        self.health = RuntimeError("internals")
        code, _, body = self.one(b"GET /health HTTP/1.1\r\n\r\n")
        self.assertEqual((code, b"internals" in body), (503, False))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_head(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(b"HEAD /health HTTP/1.1\r\n\r\n")
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertTrue(transport.value().endswith(b"\r\n\r\n"))
        self.assertIn(b"Content-Length: 32\r\n", transport.value())

    def test_connection_close(self) -> None:
        for request in (
            post(headers=b"Connection: close\r\n"),
            post(headers=b"Connection: TE, Close\r\n"),
            post().replace(b"HTTP/1.1", b"HTTP/1.0"),
        ):
            channel, transport = self.connect(self.site())
            channel.dataReceived(request * 2)
            (answer,) = answers(transport.value())
            self.assertEqual((answer[0], answer[1]["connection"]), (200, "close"))
            self.assertTrue(transport.disconnecting)

    def test_bug_in_dispatch(self) -> None:
        failed: Deferred[bytes] = Deferred()
        failed.errback(ZeroDivisionError("secret"))
        self.dispatcher.answers = [ZeroDivisionError("secret"), failed]
        for answer in self.ask(post() * 2):
            self.assertEqual(self.fault(answer), -32603)
            self.assertNotIn(b"secret", answer[2])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_no_http(self) -> None:
        for data in (
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"POST /RPC2\r\n\r\n", b"POST /RPC2 HTTP/2.0\r\n\r\n", b"A" * 40000,
            post(headers=b"Content-Length: 3\r\n"), post(headers=b"Transfer-Encoding: chunked\r\n"),
            post(headers=b"X: y\r\n" * 600), post(headers=b"X: " + b"y" * 20000 + b"\r\n"), post(headers=b"Bad\r\n"),
            b"POST /RPC2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"POST /RPC2 HTTP/1.1\r\nContent-Length: +5\r\n\r\n12345",
            b"POST /RPC2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ):  # fmt: skip
            for pieces in (1, 3):
                answer = self.one(data, pieces=pieces)
                self.assertEqual((answer[0], answer[1]["connection"]), (400, "close"), data[:60])
        self.assertEqual(self.dispatcher.bodies, [])

    def test_mapped_address(self) -> None:
        for host, address in (("::ffff:10.1.2.3", "10.1.2.3"), ("fe80::1", "fe80::1"), ("10.1.2.3", "10.1.2.3")):
            channel, _ = self.connect(self.site(), host)
            channel.dataReceived(post())
            self.assertEqual(self.dispatcher.peers[-1].address, address)


class LaterTests(SiteTests):
    """Answers that come later."""

    def test_pipeline(self) -> None:
        first: Deferred[bytes] = Deferred()
        self.dispatcher.answers = [first]
        channel, transport = self.connect(self.site())
        channel.dataReceived(post(b"1") + post(b"22"))
        channel.dataReceived(post(b"333"))
        self.assertEqual(self.dispatcher.bodies, [b"1"])
        first.callback(render_answer("late"))
        self.assertEqual(self.dispatcher.bodies, [b"1", b"22", b"333"])
        values = [xmlrpc.client.loads(body)[0][0] for _, _, body in answers(transport.value())]
        self.assertEqual(values, ["late", 2, 3])

    def test_long_poll_is_not_cut(self) -> None:
        waiting: Deferred[bytes] = Deferred()
        self.dispatcher.answers = [waiting]
        channel, transport = self.connect(self.site())
        channel.dataReceived(post())
        self.clock.pump([1] * 300)
        self.assertFalse(transport.disconnecting)
        waiting.callback(render_answer(1))
        self.assertEqual(len(answers(transport.value())), 1)

    def test_client_goes(self) -> None:
        waiting: Deferred[bytes] = Deferred()
        self.dispatcher.answers = [waiting]
        site = self.site()
        channel, transport = self.connect(site)
        channel.dataReceived(post())
        channel.connectionLost(Failure(ConnectionDone()))
        waiting.callback(render_answer(1))
        self.assertEqual(transport.value(), b"")
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pipelines_wait_for_the_reader(self) -> None:
        channel, transport = self.connect(self.site())
        self.dispatcher.answers = [render_answer("x" * 100000)] * 10
        write = transport.writeSequence

        def full(data: Any) -> None:
            write(data)
            channel.pauseProducing()

        self.patch(transport, "writeSequence", full)
        channel.dataReceived(post() * 3)
        self.assertEqual(len(self.dispatcher.bodies), 1)
        self.assertEqual(transport.producerState, "paused")
        channel.resumeProducing()
        self.assertEqual(len(self.dispatcher.bodies), 2)
        channel.resumeProducing()
        channel.resumeProducing()
        self.assertEqual(len(self.dispatcher.bodies), 3)
        self.assertEqual(transport.producerState, "producing")


class SizeTests(SiteTests):
    """Bodies over the limit."""

    def test_limit(self) -> None:
        self.assertEqual(xmlrpc.client.loads(self.one(post(b"x" * 1000), max_request=1000)[2])[0][0], 1000)
        for pieces in (1, 5):
            self.assertEqual(self.fault(self.one(post(b"x" * 1001), max_request=1000, pieces=pieces)), 413)
        self.assertEqual(self.dispatcher.bodies, [b"x" * 1000])

    def test_default_limit(self) -> None:
        self.assertEqual(self.fault(self.one(post(b"x" * (2**20 + 1)))), 413)
        self.assertEqual(self.one(post(b"x" * 2**20))[0], 200)

    def test_goes_on_after(self) -> None:
        found = self.ask(post(b"x" * 1001) + post(b"y"), max_request=1000)
        self.assertEqual(self.fault(found[0]), 413)
        self.assertEqual(xmlrpc.client.loads(found[1][2])[0][0], 1)

    def test_chunks(self) -> None:
        head = b"POST /RPC2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(xmlrpc.client.loads(self.one(head + b"2\r\nab\r\n" * 500 + b"0\r\n\r\n")[2])[0][0], 1000)
        self.assertEqual(self.dispatcher.bodies, [b"ab" * 500])
        answer = self.one(head + b"2\r\nab\r\n" * 501 + b"0\r\n\r\n", max_request=1000)
        self.assertEqual(self.fault(answer), 413)

    def test_expect(self) -> None:
        channel, transport = self.connect(self.site(max_request=1000))
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
        self.assertEqual(transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        transport.clear()
        channel.dataReceived(b"x" * 1000)
        self.assertEqual(answers(transport.value())[0][0], 200)
        transport.clear()
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
        (answer,) = answers(transport.value())
        self.assertEqual((self.fault(answer), answer[1]["connection"]), (413, "close"))

    def test_far_too_large(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MOST_DISCARDED + 1))
        (answer,) = answers(transport.value())
        self.assertEqual((self.fault(answer), answer[1]["connection"]), (413, "close"))
        for _ in range(10):
            channel.dataReceived(b"x" * 2**16)
        self.assertFalse(transport.disconnecting)
        self.clock.pump([1] * 6)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(len(answers(transport.value())), 1)

    def test_far_too_many_chunks(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        for _ in range(MOST_DISCARDED // 2**20):
            channel.dataReceived(chunk)
        self.assertEqual(transport.value(), b"")
        channel.dataReceived(chunk + b"0\r\n\r\n")
        (answer,) = answers(transport.value())
        self.assertEqual((self.fault(answer), answer[1]["connection"]), (413, "close"))

    def test_elsewhere(self) -> None:
        self.assertEqual(self.one(post(b"x" * 1001, path=b"/x"), max_request=1000)[0], 404)


class TimeTests(SiteTests):
    """What takes too long."""

    def cut_after(self, *pieces: bytes, every: float = 1.0) -> tuple[float, bytes]:
        """Send the pieces a second apart; give when the connection was ended, and what had been sent."""
        channel, transport = self.connect(self.site())
        parts = list(pieces)
        while not transport.disconnecting and not channel.discarding:
            if parts:
                channel.dataReceived(parts.pop(0))
                continue
            self.clock.advance(every)
            self.assertLess(self.clock.seconds(), 500)
        return self.clock.seconds(), transport.value()

    def test_silent_connection(self) -> None:
        after, sent = self.cut_after()
        self.assertEqual((after, sent), (15, b""))

    def test_slow_headers(self) -> None:
        channel, transport = self.connect(self.site())
        for byte in post():
            channel.dataReceived(bytes([byte]))
            self.clock.advance(1)
            if transport.value():
                break
        self.assertEqual(answers(transport.value())[0][0], 408)
        self.assertLessEqual(self.clock.seconds(), 17)

    def test_slow_body(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(post()[: -len(CALL)])
        for byte in CALL:
            channel.dataReceived(bytes([byte]))
            self.clock.advance(1)
            if transport.value():
                break
        self.assertEqual(answers(transport.value())[0][0], 408)
        self.assertIn(self.clock.seconds(), (60, 61))
        self.clock.pump([1] * 6)
        self.assertTrue(transport.disconnecting)

    def test_idle(self) -> None:
        after, sent = self.cut_after(post())
        self.assertEqual((after, len(answers(sent))), (75, 1))

    def test_second_request_begun(self) -> None:
        for parts in ([post() + b"POST"], [post(), b"POST"]):
            before = self.clock.seconds()
            after, sent = self.cut_after(*parts)
            self.assertLessEqual(after - before, 16)
            self.assertEqual([answer[0] for answer in answers(sent)], [200, 408])

    def test_calls_keep_it_open(self) -> None:
        channel, transport = self.connect(self.site())
        for _ in range(10):
            channel.dataReceived(post())
            self.clock.pump([1] * 70)
        self.assertEqual(len(answers(transport.value())), 10)
        self.assertFalse(transport.disconnecting)

    def test_client_that_does_not_read(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(post())
        channel.pauseProducing()
        self.clock.pump([1] * 125)
        self.assertTrue(transport.aborted)

    def test_client_that_does_not_close(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(post(headers=b"Connection: close\r\n"))
        self.assertTrue(transport.disconnecting)
        self.clock.pump([1] * 121)
        self.assertTrue(transport.aborted)


class CountTests(SiteTests):
    """How many connections there may be."""

    def test_per_address(self) -> None:
        site = self.site(connections_per_address=2)
        kept = [self.connect(site), self.connect(site)]
        channel, refused = self.connect(site)
        self.assertTrue(refused.disconnecting)
        channel.dataReceived(post())
        self.assertEqual(refused.value(), b"")
        channel.connectionLost(Failure(ConnectionDone()))
        self.assertFalse(self.connect(site, "10.0.0.2")[1].disconnecting)
        self.assertTrue(self.connect(site, "::ffff:10.0.0.1")[1].disconnecting)
        kept[0][0].connectionLost(Failure(ConnectionDone()))
        self.assertFalse(self.connect(site)[1].disconnecting)
        self.assertEqual(site.connections, 3)

    def test_total(self) -> None:
        site = self.site(connections=2)
        self.connect(site, "10.0.0.1")
        self.connect(site, "10.0.0.2")
        self.assertTrue(self.connect(site, "10.0.0.3")[1].disconnecting)

    def test_nothing_is_left(self) -> None:
        site = self.site(connections_per_address=3)
        for turn in range(20):
            self.connect(site)[0].dataReceived(post() if turn % 2 else b"A" * 40000)
            for channel, _ in self.channels:
                channel.connectionLost(Failure(ConnectionDone()))
            self.channels.clear()
        self.assertEqual((site.connections, site.connections_of("10.0.0.1")), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        site = self.site()
        waiting: Deferred[bytes] = Deferred()
        self.dispatcher.answers = [waiting]
        busy, busy_transport = self.connect(site)
        busy.dataReceived(post())
        _, idle_transport = self.connect(site)
        site.stopFactory()
        self.assertEqual((idle_transport.disconnecting, busy_transport.disconnecting), (True, False))
        waiting.callback(render_answer(1))
        (answer,) = answers(busy_transport.value())
        self.assertEqual(answer[1]["connection"], "close")
        self.assertTrue(busy_transport.disconnecting)
