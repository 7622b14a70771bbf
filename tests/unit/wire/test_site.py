"""The HTTP front over a transport in memory: what it answers, and its bounds."""

from __future__ import annotations

import json
import xmlrpc.client
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from fluidvm.wire.forms import PLAIN_FORM
from fluidvm.wire.peer import Peer
from fluidvm.wire.site import MOST_HEADS
from fluidvm.wire.xmlrpc import render_answer
from tests.unit.wire.support import CALL, SiteTests, answers, post


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

    def test_known_heads_change_nothing(self) -> None:
        requests = [
            post(),
            post(b"other"),
            post(headers=b""),
            post(b""),
            post(headers=b"Connection: keep-alive\r\n"),
            post(headers=b"Content-Type: text/plain\r\n"),
            post(path=b"/RPC2?a"),
            post(path=b"/x"),
            b"\r\n" + post(),
            post(headers=b"X: " + b"y" * 1000 + b"\r\n"),
            b"\r\n\r\n" + post(),
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            post(path=b"http://x/RPC2"),
            post(headers=b"Content-Type: text/xml; charset=utf-16\r\n"),
            post(b"z" * 3000),
            post(headers=b"Expect: 100-continue\r\n"),
            post(headers=b"Content-Encoding: gzip\r\n"),
            post(headers=b"Connection: close\r\n"),
            post().replace(b"HTTP/1.1", b"HTTP/1.0"),
            b"POST nothing\r\n\r\n",
        ]
        learning, forgetting = self.site(max_request=2000), self.site(max_request=2000)
        self.patch(forgetting, "remember", lambda heads, head, length, form: None)
        self.patch(learning, "_date", lambda: None)
        learning.headers = forgetting.headers
        for first in requests:
            for second in requests:
                for data in (first + second, second + post() + first):
                    for size in (1, 150, len(data)):
                        sent = []
                        for site in (learning, forgetting):
                            channel, transport = self.connect(site)
                            for start in range(0, len(data), size):
                                channel.dataReceived(data[start : start + size])
                            sent.append((transport.value(), transport.disconnecting, channel.discarding))
                        self.assertEqual(*sent)
        self.assertEqual((len(learning.heads) > 3, len(forgetting.heads)), (True, 0))

    def test_known_head_answered_later(self) -> None:
        site = self.site()
        for _ in range(2):
            waiting: Deferred[bytes] = Deferred()
            self.dispatcher.answers = [waiting]
            channel, transport = self.connect(site)
            channel.dataReceived(post() + post())
            channel.dataReceived(post())
            self.assertEqual(transport.value(), b"")
            waiting.callback(render_answer(1))
            self.assertEqual(len(answers(transport.value())), 3)
        self.assertEqual(list(site.heads.values()), [(len(CALL), PLAIN_FORM)])

    def test_remembers_a_bounded_number_of_heads(self) -> None:
        site = self.site()
        for number in range(MOST_HEADS + 10):
            self.connect(site)[0].dataReceived(post(headers=b"X: %d\r\n" % number))
        self.assertLessEqual(len(site.heads), MOST_HEADS)

    def test_large_answer(self) -> None:
        self.dispatcher.answers = [render_answer("x" * 2**20)]
        self.assertEqual(xmlrpc.client.loads(self.one(post())[2]), (("x" * 2**20,), None))

    def test_content_types(self) -> None:
        for kind, code in (
            (b"text/xml", 200),
            (b"application/xml", 200),
            (b"Text/XML; charset=utf-8", 200),
            (b"", 200),
            (b"text/plain", 415),
            (b"application/x-www-form-urlencoded", 415),
            (b"multipart/form-data", 415),
            (b"text/xml2", 415),
            (b"\xff", 415),
        ):
            self.assertEqual(self.one(post(headers=b"Content-Type: " + kind + b"\r\n"))[0], code, kind)
        self.assertEqual(self.one(post(headers=b""))[0], 200)
        # A page's empty Blob type: browsers send it without asking first.
        for page in (b"Origin: https://page.example\r\n", b"Origin: null\r\n", b"Sec-Fetch-Site: cross-site\r\n"):
            self.assertEqual(self.one(post(headers=page))[0], 415, page)
            self.assertEqual(self.one(post(headers=page + b"Content-Type: text/xml\r\n"))[0], 200, page)
        self.assertEqual(self.one(post(headers=b"Content-Encoding: gzip\r\n"))[0], 415)

    def test_methods(self) -> None:
        for method in (b"GET", b"PUT", b"DELETE", b"OPTIONS", b"BREW"):
            code, headers, _ = self.one(method + b" /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            self.assertEqual((code, headers["allow"]), (405, "POST"))

    def test_nothing_elsewhere(self) -> None:
        for path in (
            b"/",
            b"/RPC2/",
            b"/RPC2/foo",
            b"/rpc2",
            b"//RPC2",
            b"*",
            b"/health/x",
            b"http://x/rpc2",
            b"ftp://x/RPC2",
            b"/%52PC2",
        ):
            code, headers, body = self.one(post(path=path))
            self.assertEqual((code, headers["content-type"]), (404, "text/plain; charset=utf-8"), path)
            self.assertLess(len(body), 100)
        self.assertEqual(self.one(post(path=b"/RPC2?x=y"))[0], 200)

    def test_health(self) -> None:
        code, headers, body = self.one(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual((code, headers["content-type"]), (200, "application/json"))
        self.assertEqual(json.loads(body), {"status": "ok", "reasons": []})
        self.health = (False, {"status": "failing", "reasons": ["the store fails"]})
        code, _, body = self.one(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual((code, json.loads(body)["reasons"]), (503, ["the store fails"]))
        self.assertEqual(self.one(post(path=b"/health"))[0], 405)

    def test_health_fails(self) -> None:
        self.health = RuntimeError("internals")
        code, _, body = self.one(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual((code, b"internals" in body), (503, False))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_head(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
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

    def test_bug_elsewhere(self) -> None:
        site = self.site()
        channel, transport = self.connect(site)
        self.patch(site.resources[b"/health"], "render", lambda request: 1 // 0)
        channel.dataReceived(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + post())
        found = answers(transport.value())
        self.assertEqual([answer[0] for answer in found], [500, 200])
        self.assertNotIn(b"Zero", found[0][2])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_access_log(self) -> None:
        for wanted, lines in ((False, 0), (True, 3)):
            with capturedLogs() as logs:
                self.ask(post() + post() + b"GET /x?secret HTTP/1.1\r\nHost: x\r\n\r\n", access_log=wanted)
            found = [formatEvent(event) for event in logs]
            self.assertEqual(len(found), lines)
        self.assertTrue(found[0].startswith("10.0.0.1 POST /RPC2 200 "), found[0])
        self.assertTrue(found[2].startswith("10.0.0.1 GET /x 404 "), found[2])

    def test_no_http(self) -> None:
        for data in (
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
            b"POST /RPC2\r\n\r\n",
            b"POST /RPC2 HTTP/2.0\r\n\r\n",
            b"A" * 40000,
            post(headers=b"Content-Length: 3\r\n"),
            post(headers=b"Transfer-Encoding: chunked\r\n"),
            post(headers=b"X: y\r\n" * 600),
            post(headers=b"X: " + b"y" * 20000 + b"\r\n"),
            post(headers=b"Bad\r\n"),
            b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n12345",
            b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ):
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
