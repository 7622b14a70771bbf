"""The whole server over TCP, spoken to byte by byte: what clients' HTTP libraries send, and what they rely on."""

from __future__ import annotations

import gzip
import socket
import xmlrpc.client
from typing import Any

from twisted.internet.threads import deferToThread

from tests.support import PASSWORD, Running, ServerCase, port_of
from tests.unit.wire.support import answers

Answers = list[tuple[int, dict[str, str], bytes]]


def call(name: str, *arguments: Any) -> bytes:
    return xmlrpc.client.dumps(arguments, name).encode()


def post(body: bytes, *headers: str, target: str = "/RPC2", host: str = "localhost") -> bytes:
    """A call as curl sends it."""
    lines = [f"POST {target} HTTP/1.1", f"Host: {host}", "Accept: */*", f"Content-Length: {len(body)}", *headers]
    if not any(header.startswith("Content-Type") for header in headers):
        lines.append("Content-Type: text/xml")
    return "\r\n".join([*lines, "", ""]).encode() + body


def value(answer: tuple[int, dict[str, str], bytes]) -> Any:
    """What an XML-RPC answer says."""
    _, headers, body = answer
    packed = headers.get("content-encoding") == "gzip"
    (found,), _ = xmlrpc.client.loads(gzip.decompress(body) if packed else body)
    return found


class HttpClientTests(ServerCase):
    timeout = 60

    def setUp(self) -> None:
        super().setUp()
        self.there: Running = self.serve()

    async def talk(self, *parts: bytes, half: bool = False) -> Answers:
        """Send parts on a connection, each after an answer to the one before, and read until the server ends it."""
        return answers(await deferToThread(self._talk, parts, half))

    def _talk(self, parts: tuple[bytes, ...], half: bool) -> bytes:
        found = b""
        with socket.create_connection(("127.0.0.1", port_of(self.there.server)), timeout=50) as connection:
            for place, part in enumerate(parts):
                if place:
                    found += connection.recv(2**20)
                connection.sendall(part)
            if half:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(2**20):
                found += data
        return found

    async def test_a_client_that_ends_its_direction_is_answered(self) -> None:
        """Also where the answer takes a while, as for a password, and where several were asked for."""
        login = post(call("authenticate", "admin", PASSWORD))
        (answer,) = await self.talk(login, half=True)
        self.assertIsInstance(value(answer), int)
        found = await self.talk(login + post(call("system.listMethods")) + login, half=True)
        self.assertEqual([type(value(one)) for one in found], [int, list, int])
        self.assertEqual(await self.talk(post(call("system.listMethods"))[:-5], half=True), [])
        self.assertEqual(await self.talk(b"", half=True), [])
        await self.until(lambda: not self.there.server._site.connections)

    async def test_absolute_targets(self) -> None:
        for target, host in (
            ("http://localhost/RPC2", "localhost"),
            ("HTTP://127.0.0.1:8080/RPC2", "localhost"),
            ("http://localhost/RPC2", "proxy.example"),
        ):
            sent = post(call("system.listMethods"), target=target, host=host)
            found = await self.talk(sent, sent, half=True)
            self.assertEqual([code for code, _, _ in found], [200, 200], target)
        ((code, _, _),) = await self.talk(post(b"", target="http://evil.example/RPC2"), half=True)
        self.assertEqual(code, 421)
        ((code, _, _),) = await self.talk(b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", half=True)
        self.assertEqual(code, 200)

    async def test_refused_heads(self) -> None:
        for head, wanted in (
            (b"POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\n\r\n", 411),
            (b"PUT /images/upload?upload=x HTTP/1.1\r\nHost: localhost\r\n\r\n", 411),
            (b"POST /RPC2 HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
            (b"GET /health HTTP/1.1\r\n\r\n", 400),
        ):
            ((code, headers, _),) = await self.talk(head, half=True)
            self.assertEqual((code, headers["connection"]), (wanted, "close"), head)
        ((code, _, _),) = await self.talk(b"GET /health HTTP/1.0\r\n\r\n")
        self.assertEqual(code, 200)

    async def test_charsets(self) -> None:
        admin = await self.there.login(address="127.0.0.1")
        for charset, name in (("utf-8", "Łukasz"), ("iso-8859-1", "Grüße"), ("utf-16", "Łukasz"), ("cp1252", "10 €")):
            body = call("set_user_details", admin.cookie, 1, {"full_name": name}).decode()
            sent = post(body.encode(charset), f"Content-Type: text/xml; charset={charset}")
            commit = post(call("commit_tasks", admin.cookie))
            found = await self.talk(sent, commit, half=True)
            await admin.finish(value(found[1]))
            self.assertEqual((await admin.call("get_user", 1))["full_name"], name, charset)
        ((code, _, words),) = await self.talk(post(b"x", "Content-Type: text/xml; charset=rot13"), half=True)
        self.assertEqual((code, b"UTF-8" in words), (415, True))

    async def test_compressed_for_who_asks(self) -> None:
        admin = await self.there.login(address="127.0.0.1")
        for number in range(200):
            await admin.call("create_resource_plan", f"plan{number}", {"vms": number})
        await admin.commit()
        whole = await admin.call("list_resource_plans")
        sent = call("list_resource_plans", admin.cookie)
        for accepted, packed in (("gzip, deflate", True), ("*", True), ("gzip;q=0", False), ("br", False), ("", False)):
            again = post(sent, f"Accept-Encoding: {accepted}")
            for answer in await self.talk(again + again + again, half=True):
                self.assertEqual(answer[1].get("content-encoding"), "gzip" if packed else None, accepted)
                self.assertEqual(len(value(answer)), len(whole))
                self.assertEqual(len(answer[2]) < 10_000, packed)
        (answer,) = await self.talk(post(call("get_session", admin.cookie), "Accept-Encoding: gzip"), half=True)
        self.assertNotIn("content-encoding", answer[1])

    async def test_pythons_own_client(self) -> None:
        """It asks for compressed answers by itself."""
        admin = await self.there.login(address="127.0.0.1")
        for number in range(200):
            await admin.call("create_resource_plan", f"plan{number}", {})
        await admin.commit()

        def talk() -> list[Any]:
            with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port_of(self.there.server)}/RPC2") as proxy:
                return [len(proxy.list_resource_plans(admin.cookie)) for _ in range(3)]  # type: ignore[arg-type]

        self.assertEqual(await deferToThread(talk), [200] * 3)
