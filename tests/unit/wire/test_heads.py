"""What a request's head is refused for, and targets that name their host."""

from __future__ import annotations

from fluidvm.wire.heads import origin_form
from fluidvm.wire.known_calls import KnownCalls
from tests.unit.wire.support import CALL, SiteTests, answers, post


class HostTests(SiteTests):
    def test_exactly_one(self) -> None:
        for host in (
            b"",
            b"Host: x\r\nHost: x\r\n",
            b"Host: a b\r\n",
            b"Host: user@x\r\n",
            b"Host: x/y\r\n",
            b"Host: \xff\r\n",
        ):
            for request in (post(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", post(path=b"http://y/RPC2")):
                code, headers, body = self.one(request.replace(b"Host: x\r\n", host))
                self.assertEqual((code, headers["connection"]), (400, "close"), request)
                self.assertIn(b"Host", body)
        self.assertEqual(self.dispatcher.bodies, [])

    def test_what_is_fine(self) -> None:
        for host in (b"", b"x", b"x:80", b"[::1]:80", b"127.0.0.1", b"a_b.example"):
            self.assertEqual(self.one(post().replace(b"Host: x", b"Host: " + host))[0], 200, host)
        old = post().replace(b"HTTP/1.1", b"HTTP/1.0")
        self.assertEqual(self.one(old.replace(b"Host: x\r\n", b""))[0], 200)
        self.assertEqual(self.one(old.replace(b"Host: x\r\n", b"Host: x\r\nHost: y\r\n"))[0], 400)

    def test_nothing_of_the_rest_is_taken_for_a_request(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(b"POST /RPC2 HTTP/1.1\r\n\r\n" + post())
        channel.dataReceived(post())
        self.assertEqual([code for code, _, _ in answers(transport.value())], [400])
        self.assertEqual(self.dispatcher.bodies, [])
        self.clock.pump([1] * 10)
        self.assertTrue(transport.disconnecting)


class LengthTests(SiteTests):
    def test_without_one(self) -> None:
        for method in (b"POST", b"PUT"):
            for path in (b"/RPC2", b"/health", b"/images/upload?upload=x"):
                for version in (b"HTTP/1.1", b"HTTP/1.0"):
                    for more in (b"", b"Transfer-Encoding: identity\r\n"):
                        head = b"%s %s %s\r\nHost: x\r\n%s\r\n" % (method, path, version, more)
                        for data in (head, head + CALL):
                            code, headers, body = self.one(data)
                            self.assertEqual((code, headers["connection"]), (411, "close"), data)
                            self.assertIn(b"Content-Length", body)
        self.assertEqual(self.dispatcher.bodies, [])

    def test_with_one(self) -> None:
        for length in (b"Content-Length: 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
            self.assertEqual(self.one(b"POST /RPC2 HTTP/1.1\r\nHost: x\r\n" + length)[0], 200)
        self.assertEqual(self.dispatcher.bodies, [b"", b""])
        for method in (b"GET", b"DELETE", b"OPTIONS"):  # these have no body where nothing tells of one
            self.assertEqual(self.one(method + b" /RPC2 HTTP/1.1\r\nHost: x\r\n\r\n")[0], 405)


class AbsoluteTests(SiteTests):
    """Targets as proxies are sent them (RFC 9112, section 3.2.2)."""

    def test_origin_form(self) -> None:
        for target, found in (
            (b"/RPC2", (b"/RPC2", None)),
            (b"*", (b"*", None)),
            (b"http://x/RPC2", (b"/RPC2", b"x")),
            (b"HTTPS://x:8443/a?b=c://d", (b"/a?b=c://d", b"x:8443")),
            (b"http://x", (b"/", b"x")),
            (b"http://x?y", (b"/?y", b"x")),
            (b"http:///RPC2", (b"/RPC2", b"")),
            (b"ftp://x/RPC2", (b"ftp://x/RPC2", None)),
            (b"//x/RPC2", (b"//x/RPC2", None)),
            (b"http:/RPC2", (b"http:/RPC2", None)),
        ):
            self.assertEqual(origin_form(target), found)

    def test_answered(self) -> None:
        for target in (b"http://x/RPC2", b"https://x/RPC2", b"HTTP://other:99/RPC2?a", b"http://[::1]:80/RPC2"):
            for pieces in (1, 7):
                self.assertEqual(self.one(post(path=target), pieces=pieces)[0], 200, target)
        self.assertEqual(self.one(b"GET http://x/health HTTP/1.1\r\nHost: x\r\n\r\n")[0], 200)
        self.assertEqual(self.one(post(path=b"http://x/nothing"))[0], 404)
        self.assertEqual(self.one(post(path=b"http://x"))[0], 404)

    def test_on_the_same_connection(self) -> None:
        channel, transport = self.connect(self.site())
        for _ in range(3):
            channel.dataReceived(post(path=b"http://x/RPC2") + post())
        self.assertEqual([code for code, _, _ in answers(transport.value())], [200] * 6)

    def test_no_host(self) -> None:
        for target in (b"http:///RPC2", b"http://user@x/RPC2", b"http://a b/RPC2", b"http://\xff/RPC2"):
            self.assertEqual(self.one(post(path=target))[0], 400, target)

    def test_the_targets_host_is_the_one_that_counts(self) -> None:
        """On loopback, where a page's own name gives it away."""
        site = self.site()
        for target, host, code in (
            (b"http://evil.example/RPC2", b"localhost", 421),
            (b"http://localhost/RPC2", b"evil.example", 200),
            (b"/RPC2", b"evil.example", 421),
            (b"/RPC2", b"localhost", 200),
        ):
            for _ in range(2):
                channel, transport = self.connect(site)
                channel.loopback, channel._heads = True, site.loopback_heads
                channel.known_calls = KnownCalls(site.loopback_heads)
                channel.dataReceived(post(path=target).replace(b"Host: x", b"Host: " + host))
                self.assertEqual(answers(transport.value())[0][0], code, (target, host))
