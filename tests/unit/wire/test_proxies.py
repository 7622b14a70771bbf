from __future__ import annotations

import socket
import xmlrpc.client
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.wire.proxies import Proxies
from tests.support import PASSWORD, ServerCase, port_of

PROXY = "10.0.0.1"


class ForwardedTests(SynchronousTestCase):
    def client(self, *values: str, header: str = "forwarded") -> str:
        proxies = Proxies(["10.0.0.0/8", "2001:db8::1"], header)
        return proxies.client(PROXY, [value.encode("latin-1") for value in values])

    def test_the_examples_of_the_rfc(self) -> None:
        self.assertEqual(self.client("for=192.0.2.43"), "192.0.2.43")
        self.assertEqual(self.client('for="[2001:db8:cafe::17]:4711"'), "2001:db8:cafe::17")
        self.assertEqual(self.client("for=192.0.2.60;proto=http;by=203.0.113.43"), "192.0.2.60")
        self.assertEqual(self.client("for=192.0.2.43, for=198.51.100.17"), "198.51.100.17")
        self.assertEqual(self.client("for=192.0.2.43", "for=198.51.100.17"), "198.51.100.17")

    def test_only_what_trusted_proxies_added_counts(self) -> None:
        self.assertEqual(self.client("for=1.2.3.4, for=192.0.2.43, for=10.0.0.7"), "192.0.2.43")
        self.assertEqual(self.client("for=10.0.0.9, for=10.0.0.7"), "10.0.0.9")

    def test_headers_without_an_address(self) -> None:
        for value in ("", "for=unknown", "for=_hidden", "for", "for=", 'for="', "for=1.2.3.4 for=2.3.4.5", "by=1.2.3.4"):
            self.assertEqual(self.client(value), PROXY, value)
        self.assertEqual(self.client("for=192.0.2.1, for=unknown"), PROXY)

    def test_x_forwarded_for(self) -> None:
        client = self.client("192.0.2.1, 192.0.2.43, 10.0.0.7", header="x-forwarded-for")
        self.assertEqual(client, "192.0.2.43")
        self.assertEqual(self.client("2001:db8:2::1", header="x-forwarded-for"), "2001:db8:2::1")
        self.assertEqual(self.client("nonsense", header="x-forwarded-for"), PROXY)

    @given(st.text(max_size=60))
    def test_any_header_gives_an_address(self, text: str) -> None:
        for header in ("forwarded", "x-forwarded-for"):
            found = Proxies([PROXY], header).client(PROXY, [text.encode("utf-8", "replace")])
            self.assertRegex(found, r"^[0-9a-f.:]+$")

    def test_who_is_trusted(self) -> None:
        proxies = Proxies(["10.0.0.0/8", "fe80::/10", "local"], "forwarded")
        for address in ("10.1.2.3", "fe80::1%eth0", "local"):
            self.assertTrue(proxies.trusts(address))
        for address in ("11.0.0.1", "", "x", "::1"):
            self.assertFalse(proxies.trusts(address))
        self.assertFalse(Proxies([], "forwarded").trusts("local"))


class BehindAProxyTests(ServerCase):
    def ask(self, port: int, headers: str, method: str, *arguments: Any, first: bytes = b"") -> object:
        body = xmlrpc.client.dumps(arguments, method).encode()
        head = f"POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(first + head.encode() + body)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return xmlrpc.client.loads(answer.partition(b"\r\n\r\n")[2])[0][0]

    async def address(self, *options: str, headers: str = "", first: bytes = b"") -> str:
        running = self.serve(*options)
        port = port_of(running.server, -1)
        cookie = await deferToThread(self.ask, port, headers, "authenticate", "admin", PASSWORD, first=first)
        session = await deferToThread(self.ask, port, headers, "get_session", cookie, first=first)
        return str(session["address"])  # type: ignore[index]

    async def test_a_trusted_proxy(self) -> None:
        address = await self.address("--trusted-proxies", "127.0.0.1", headers="Forwarded: for=192.0.2.43\r\n")
        self.assertEqual(address, "192.0.2.43")

    async def test_others_are_not_trusted(self) -> None:
        headers = "Forwarded: for=192.0.2.43\r\nX-Forwarded-For: 192.0.2.44\r\n"
        self.assertEqual(await self.address(headers=headers), "127.0.0.1")

    async def test_only_the_configured_header_counts(self) -> None:
        headers = "Forwarded: for=192.0.2.43\r\nX-Forwarded-For: 192.0.2.44\r\n"
        options = ("--trusted-proxies", "127.0.0.0/8", "--forwarded-header", "x-forwarded-for")
        self.assertEqual(await self.address(*options, headers=headers), "192.0.2.44")

    async def test_the_proxy_protocol(self) -> None:
        first = b"PROXY TCP4 192.0.2.45 192.0.2.1 40000 8000\r\n"
        endpoint = "haproxy:tcp:0:interface=127.0.0.1"
        self.assertEqual(await self.address("--http", endpoint, first=first), "192.0.2.45")

    async def test_two_clients_of_one_connection(self) -> None:
        running = self.serve("--trusted-proxies", "127.0.0.1")
        port = port_of(running.server)
        cookie = (await running.login(address="192.0.2.43")).cookie

        def ask() -> list[bytes]:
            body = xmlrpc.client.dumps((cookie,), "ping").encode()
            answers = []
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                for client in ("192.0.2.43", "192.0.2.43", "192.0.2.44", "192.0.2.43"):
                    connection.sendall(
                        b"POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nForwarded: for=%s\r\nContent-Length: %d\r\n\r\n%s"
                        % (client.encode(), len(body), body)
                    )
                    answer = b""
                    while b"</methodResponse>" not in answer:
                        answer += connection.recv(65536)
                    answers.append(answer)
            return answers

        answers = await deferToThread(ask)
        self.assertEqual([b"<int>401</int>" in answer for answer in answers], [False, False, True, False])
