"""Whatever somebody without a session sends to the whole server is answered in documented words and reaches no traceback."""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from fluidvm.auth.sessions import FREE_COOKIES
from fluidvm.model.declare import METHODS
from fluidvm.model.faults import FAULTS
from fluidvm.wire.peer import Peer
from tests.support import Running, ServerCase
from tests.unit.model.test_xmlvalue import CALM, VALUES
from tests.unit.wire.support import answers

ODD = st.integers(-(10**31), 10**31) | st.sampled_from([2**31, -(2**31) - 1, 2**32 + 5, 2**63]) | VALUES
"""What stands in the place of a cookie."""
METHOD_NAMES = st.sampled_from([name for name in METHODS if not METHODS[name].anonymous])
SYSTEM = st.sampled_from(
    ["system.listMethods", "system.methodHelp", "system.methodSignature", "system.multicall", "no.such"]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Connection: close",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Version: x",
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
            b"Sec-WebSocket-Key: \xff",
            b"Sec-WebSocket-Protocol: binary, \xff",
            b"Sec-WebSocket-Extensions: permessage-deflate; x=\x80",
            b"Host: x",
            b"Host: \xff\xfe",
            b"Host: ::::",
            b"X-FluidVM-Cookie: 99999999999",
            b"X-FluidVM-Cookie: \xb2",
            b"X-FluidVM-Cookie: x",
            b"X-FluidVM-Cookie:",
            b"X-FluidVM-Cookie: 5",
            b"Content-Range: bytes 5-1/*",
            b"Content-Range: bytes \xff-1/2",
            b"Range: bytes=5-1",
            b"Range: \xff",
            b"Expect: 100-continue",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: identity",
            b"Content-Type: text/xml; charset=\xff",
            b"Content-Type: text/xml; charset=utf-16",
            b"Content-Encoding: gzip",
            b"Content-Type: text/xml; charset=idna",
            b"Accept-Encoding: gzip",
            b"Accept-Encoding: gzip;q=\xff, *;q=2",
            b'Forwarded: for="\xff',
            b"X-Forwarded-For: \xff",
            b"Origin: \xff",
            b"Content-Length: 5",
            b"Content-Length: +5",
            b"Content-Length: \xb2",
            b"Content-Length: 99999999999999999999",
            b"\xff: x",
            b": x",
            b"x",
            b" folded",
        ]
    )
    | st.binary(max_size=8).filter(lambda text: b"\n" not in text),
    max_size=6,
)
LINES = st.builds(
    lambda method, path, query, version: b"%s %s%s %s" % (method, path, query, version),
    st.sampled_from([b"GET", b"PUT", b"POST", b"HEAD", b"BREW", b"\xff"]),
    st.sampled_from(
        [
            b"/RPC2",
            b"/health",
            b"/console",
            b"/images/upload",
            b"/disks/1/content",
            b"/disks/9999999999/content",
            b"/\xff",
            b"*",
            b"http://x/RPC2",
            b"https:///RPC2",
            b"http://x",
            b"http://\xff@y/RPC2",
        ]
    ),
    st.sampled_from(
        [
            b"",
            b"?",
            b"?cookie=2147483648",
            b"?cookie=5&upload=u",
            b"?cookie=%ff&upload=%00",
            b"?ticket=%ff",
            b"?ticket=x",
            b"?ticket=1&ticket=2",
            b"?\xff=\xff",
            b"?cookie=\xc2\xb2",
        ]
    ),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9", b""]),
)


class StrangerTests(ServerCase):
    """Whatever is logged as an error in here fails the test that did it."""

    def setUp(self) -> None:
        super().setUp()
        self.there: Running = self.serve()
        self.met = 0
        self.waiting: list[Deferred[Any]] = []

    def quietly(self, do: Callable[[], Any]) -> Any:
        """Fails at once where an error is logged, so that the input is known that did it."""
        with capturedLogs() as logs:
            found = do()
        self.assertEqual([event["log_format"] for event in logs if "log_failure" in event], [])
        return found

    def address(self) -> str:
        """Everyone comes from a place of its own: none is held back."""
        self.met += 1
        return f"10.{self.met // 62500}.{self.met // 250 % 250}.{self.met % 250}"

    def told(self, body: bytes, address: str) -> Any:
        """What a call is answered with; C{None}: not yet."""
        answer = self.quietly(lambda: self.there.server.dispatcher.dispatch(body, Peer(address)))
        if isinstance(answer, Deferred):
            known: list[bytes] = []
            answer.addCallback(known.append)
            self.waiting.append(answer)
            if not known:
                return None
            (answer,) = known
        try:
            (value,), _ = xmlrpc.client.loads(answer, use_builtin_types=True)
        except xmlrpc.client.Fault as fault:
            return fault
        return value

    async def test_odd_cookies(self) -> None:
        @settings(CALM, max_examples=300)
        @given(METHOD_NAMES, ODD, st.lists(VALUES, max_size=3))
        def one(name: str, cookie: Any, more: list[Any]) -> None:
            body = _dumps((cookie, *more), name)
            there = type(cookie) is int and -(2**31) <= cookie < 2**31
            fault = self.told(body, self.address())
            if isinstance(fault, xmlrpc.client.Fault) and fault.faultCode in (-32600, -32700):
                return  # not even a call: the standard library writes what XML can't carry
            self.assertEqual(fault.faultCode, 401 if there else -32602)
            self.assertEqual(fault.faultString.startswith("cookie: "), not there)

        one()

    async def test_odd_calls_of_what_is_for_everybody(self) -> None:
        @settings(CALM, max_examples=300)
        @given(SYSTEM | METHOD_NAMES, st.lists(VALUES, max_size=3), st.booleans())
        def one(name: str, arguments: list[Any], boxed: bool) -> None:
            call = {"methodName": name, "params": arguments}
            body = _dumps(([call, *arguments],), "system.multicall") if boxed else _dumps(tuple(arguments), name)
            told = self.told(body, self.address())
            for answer in told if boxed and isinstance(told, list) else [told]:
                code = answer["faultCode"] if isinstance(answer, dict) else getattr(answer, "faultCode", None)
                self.assertTrue(code is None or (code in FAULTS and code != -32603), answer)

        one()

    async def test_odd_logins(self) -> None:
        @settings(CALM, max_examples=50)
        @given(st.lists(VALUES, max_size=4))
        def one(arguments: list[Any]) -> None:
            for name in METHODS:
                if METHODS[name].anonymous:
                    told = self.told(_dumps(tuple(arguments), name), self.address())
                    self.assertTrue(told is None or (told.faultCode in FAULTS and told.faultCode != -32603), told)

        one()
        for answer in self.waiting:
            await answer

    async def test_odd_http(self) -> None:
        site: Any = self.there.server._site

        @settings(CALM, max_examples=500)
        @given(LINES, HEADERS, st.binary(max_size=30), st.integers(0, 300))
        def one(line: bytes, headers: list[bytes], body: bytes, cut: int) -> None:
            host = [] if any(header.startswith(b"Host") for header in headers) else [b"Host: x"]
            data = b"\r\n".join([line, *host, *headers, b"", body])
            transport: Any = StringTransport(peerAddress=IPv4Address("TCP", self.address(), 4000))
            channel = site.buildProtocol(transport.getPeer())

            def talk() -> None:
                channel.makeConnection(transport)
                channel.dataReceived(data[:cut])
                channel.dataReceived(data[cut:])
                channel.connectionLost(Failure(ConnectionDone()))

            self.quietly(talk)
            sent = bytes(transport.value()).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
            if not line.startswith(b"HEAD"):
                for code, _, _ in answers(sent):
                    self.assertIn(code, (200, 400, 401, 403, 404, 405, 408, 411, 415, 416, 421, 426, 429, 503))

        one()

    async def test_odd_cookies_are_counted(self) -> None:
        """A boxcar may try as many as are free; then all the rest waits, once."""
        odd = ["2147483648", "99999999999999999999", "-2147483649"]
        calls = [{"methodName": "list_vms", "params": [777000 + number % 3]} for number in range(1000)]
        body = xmlrpc.client.dumps((calls,), "system.multicall")
        for number, value in enumerate(odd):
            body = body.replace(f"<int>{777000 + number}</int>", f"<int>{value}</int>")
        with capturedLogs() as logs:
            answering: Any = self.there.server.dispatcher.dispatch(body.encode(), Peer("192.0.2.9"))
            self.assertFalse(answering.called)
            self.there.clock.advance(20)
            self.assertTrue(answering.called)
        self.assertEqual(logs, [])
        told: Any
        (told,), _ = xmlrpc.client.loads(await answering)
        self.assertEqual([answer["faultCode"] for answer in told], [-32602] * FREE_COOKIES + [429] * (1000 - FREE_COOKIES))

    async def test_nothing_in_the_place_of_a_number_is_free(self) -> None:
        for _ in range(FREE_COOKIES):
            await self.refused(-32602, self.there.call("ping", "5", address="192.0.2.8"))
        answering = Deferred.fromCoroutine(self.refused(429, self.there.call("ping", "5", address="192.0.2.8")))
        self.assertFalse(answering.called)
        self.there.clock.advance(20)
        await answering


def _dumps(arguments: tuple[Any, ...], name: str) -> bytes:
    """As the standard library does, which takes ints of 32 bits only and writes characters that XML hasn't."""
    found: list[str] = []
    marshaller = xmlrpc.client.Marshaller("utf-8")
    marshaller.dispatch = {
        **marshaller.dispatch,
        int: lambda self, value, write: write(f"<value><int>{value}</int></value>"),  # type: ignore[dict-item]
    }
    found.append(marshaller.dumps(arguments))
    document = f"<methodCall><methodName>{name}</methodName>{''.join(found)}</methodCall>"
    return document.encode("utf-8", "surrogatepass")
