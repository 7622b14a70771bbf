"""The bounds of the HTTP front: sizes, times and counts."""

from __future__ import annotations

import xmlrpc.client

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from fluidvm.wire.bounds import MOST_DISCARDED
from fluidvm.wire.xmlrpc import render_answer
from tests.unit.wire.support import CALL, SiteTests, answers, post


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
        head = b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(xmlrpc.client.loads(self.one(head + b"2\r\nab\r\n" * 500 + b"0\r\n\r\n")[2])[0][0], 1000)
        self.assertEqual(self.dispatcher.bodies, [b"ab" * 500])
        answer = self.one(head + b"2\r\nab\r\n" * 501 + b"0\r\n\r\n", max_request=1000)
        self.assertEqual(self.fault(answer), 413)

    def test_expect(self) -> None:
        channel, transport = self.connect(self.site(max_request=1000))
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
        self.assertEqual(transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        transport.clear()
        channel.dataReceived(b"x" * 1000)
        self.assertEqual(answers(transport.value())[0][0], 200)
        transport.clear()
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
        (answer,) = answers(transport.value())
        self.assertEqual((self.fault(answer), answer[1]["connection"]), (413, "close"))

    def test_far_too_large(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MOST_DISCARDED + 1))
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
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
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
        site = self.site()
        for _ in range(2):  # the second time its head is known
            start = self.clock.seconds()
            channel, transport = self.connect(site)
            channel.dataReceived(post()[: -len(CALL)])
            for byte in CALL:
                channel.dataReceived(bytes([byte]))
                self.clock.advance(1)
                if transport.value():
                    break
            self.assertEqual(answers(transport.value())[0][0], 408)
            self.assertIn(self.clock.seconds() - start, (60, 61))
            self.clock.pump([1] * 6)
            self.assertTrue(transport.disconnecting)
            self.connect(site)[0].dataReceived(post())

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

    def test_refusals_are_logged_once(self) -> None:
        site = self.site(connections_per_address=1)
        with capturedLogs() as logs:
            for _ in range(5):
                self.connect(site)
            self.clock.pump([1] * 3)
        self.assertEqual([event["count"] for event in logs], [4])

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
