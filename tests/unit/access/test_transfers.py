"""Transfers over HTTP: uploads of images and downloads of disks."""

from __future__ import annotations

import contextlib
import errno
import io
import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Cooperator, deferLater
from twisted.python.failure import Failure
from twisted.web.client import Agent, FileBodyProducer, readBody
from twisted.web.http_headers import Headers

from fluidvm.access import transfers
from fluidvm.access.transfers import Contents
from fluidvm.auth.sessions import FREE_COOKIES
from fluidvm.images import files as image_files
from fluidvm.images.files import MIB, PIECE
from tests.support import Client, port_of
from tests.unit.api.storage.test_images import WHOLE, ImageCase, digest


class Raw(Protocol):
    """A client that sends raw bytes."""

    transport: Any

    def __init__(self) -> None:
        self.seen = bytearray()
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.seen += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class TransferCase(ImageCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.admin = await self.there.login(address="127.0.0.1")
        self.agent = Agent(reactor)

    @property
    def begun(self) -> str:
        """The beginning of an upload's request."""
        return self.begun_as("up")

    def begun_as(self, name: str, client: Client | None = None, host: str = "localhost") -> str:
        """The same for an upload of another name."""
        cookie = (client or self.admin).cookie
        return f"PUT /images/upload?cookie={cookie}&upload={name} HTTP/1.1\r\nHost: {host}\r\n"

    @property
    def port(self) -> int:
        return port_of(self.there.server)

    async def ask(
        self, method: str, path: str, body: bytes | None = None, client: Client | None = None, **headers: str
    ) -> tuple[int, Any, bytes]:
        """Send a request. @return: status, headers and body."""
        cookie = (client or self.admin).cookie
        more = {name.replace("_", "-"): [value] for name, value in headers.items()}
        sent = Headers({"X-FluidVM-Cookie": [str(cookie)], **more})
        url = f"http://127.0.0.1:{self.port}{path}".encode()
        producer = None if body is None else FileBodyProducer(io.BytesIO(body), cooperator=_eager())
        answer: Any = await self.agent.request(method.encode(), url, sent, producer)
        return answer.code, answer.headers, await readBody(answer)

    async def put(self, body: bytes, name: str = "up", **more: Any) -> tuple[int, Any]:
        code, _, said = await self.ask("PUT", f"/images/upload?upload={name}", body, **more)
        return code, json.loads(said) if code == 200 else said.decode()

    async def size(self, name: str = "up") -> int:
        code, _, said = await self.ask("GET", f"/images/upload?upload={name}")
        self.assertEqual(code, 200, said)
        return int(json.loads(said)["size"])

    async def raw(self, data: bytes) -> Raw:
        """Send bytes on a new connection."""
        raw = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Raw())
        raw.transport.write(data)
        self.addCleanup(self.close, raw)
        return raw

    async def close(self, raw: Raw) -> None:
        raw.transport.abortConnection()
        await self.until(lambda: raw.lost)

    async def disk(self, data: bytes = WHOLE, client: Client | None = None) -> int:
        """A disk with these bytes."""
        self.assertEqual((await self.put(data, client=client))[0], 200)
        made = client or self.admin
        image = await made.do("import_image", {"name": f"os{len(data)}", "format": "raw", "upload": "up"})
        return await made.do("create_disk", {"name": f"d{len(data)}", "image": image, "compute_node": self.node})


def _eager() -> Any:
    return Cooperator(scheduler=lambda call: reactor.callLater(0, call))


class UploadTests(TransferCase):
    async def test_upload_then_download(self) -> None:
        self.assertEqual(await self.size(), 0)
        self.assertEqual(await self.put(WHOLE), (200, {"upload": "up", "size": len(WHOLE)}))
        self.assertEqual(await self.size(), len(WHOLE))
        image = await self.admin.do("import_image", {"name": "os", "format": "raw", "upload": "up", "sha256": digest(WHOLE)})
        disk = await self.admin.do("create_disk", {"name": "d", "image": image, "compute_node": self.node})
        code, headers, body = await self.ask("GET", f"/disks/{disk}/content")
        self.assertEqual((code, body), (200, WHOLE.ljust(7 * MIB, b"\0")))
        self.assertEqual(headers.getRawHeaders("content-disposition"), ['attachment; filename="d.raw"'])

    async def test_the_cookie_in_the_query(self) -> None:
        path = f"/images/upload?cookie={self.admin.cookie}&upload=up"
        nobody = Client(self.there, 0, "127.0.0.1")
        raw = await self.raw(f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc".encode())
        await self.until(lambda: b'"size": 3}' in raw.seen)
        self.assertEqual((await self.ask("GET", path, client=nobody))[0], 401)

    async def test_a_range_that_contradicts_itself(self) -> None:
        for wrong in ("bytes 2-1/3", "bytes 2-1/*", "bytes 0-3/3"):
            code, words = await self.put(b"abc", Content_Range=wrong)
            self.assertEqual((code, "LAST must be" in words), (400, True), wrong)
        self.assertEqual(await self.size(), 0)

    async def test_in_parts(self) -> None:
        half = PIECE + 1000
        await self.put(WHOLE[:half])
        rest = WHOLE[half:]
        more = f"bytes {half}-{len(WHOLE) - 1}/{len(WHOLE)}"
        self.assertEqual(await self.put(rest, Content_Range=more), (200, {"upload": "up", "size": len(WHOLE)}))
        code, words = await self.put(rest, Content_Range=more)
        self.assertEqual((code, f"{len(WHOLE)} bytes" in words), (409, True))
        await self.admin.do("import_image", {"name": "os", "format": "raw", "upload": "up", "sha256": digest(WHOLE)})

    async def test_an_upload_is_started_again(self) -> None:
        await self.put(WHOLE)
        await self.put(b"short")
        self.assertEqual(await self.size(), 5)
        await self.put(b"")
        self.assertEqual(await self.size(), 0)

    async def test_a_connection_that_breaks(self) -> None:
        head = f"{self.begun}Content-Length: 1000000\r\n\r\n"
        raw = await self.raw(head.encode() + bytes(300000))
        await self.until(lambda: self.there.server._site._channels)
        await deferLater(reactor, 0.2, lambda: None)
        raw.transport.abortConnection()
        while not (size := await self.size()):
            await deferLater(reactor, 0.01, lambda: None)
        self.assertLessEqual(size, 300000)
        more = f"bytes {size}-999999/1000000"
        self.assertEqual((await self.put(bytes(1000000 - size), Content_Range=more))[0], 200)
        self.assertEqual(len(self.there.server.transfers), 0)

    async def test_chunks_and_a_client_that_expects_100_continue(self) -> None:
        head = f"{self.begun}Transfer-Encoding: chunked\r\n"
        raw = await self.raw(head.encode() + b"Expect: 100-continue\r\n\r\n")
        await self.until(lambda: b"100 Continue" in raw.seen)
        raw.transport.write(b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
        await self.until(lambda: b'"size": 7}' in raw.seen)
        # The connection stays usable.
        raw.transport.write(
            f"GET /images/upload?cookie={self.admin.cookie}&upload=up HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        await self.until(lambda: raw.seen.count(b'"size": 7}') == 2)

    async def test_refusals(self) -> None:
        nobody = Client(self.there, 12345, "127.0.0.1")
        eve = await self.admin.user("eve", "auditor", address="127.0.0.1")
        self.assertEqual((await self.put(b"x", client=nobody))[0], 401)
        self.assertEqual((await self.put(b"x", client=eve))[0], 403)
        for name in ("", "../x", "a/b", "x" * 64, "a&upload=b"):
            self.assertEqual((await self.put(b"x", name))[0], 400, name)
        self.assertEqual((await self.put(b"x", Content_Range="bytes x"))[0], 400)
        self.assertEqual((await self.ask("POST", "/images/upload"))[0], 405)
        self.assertEqual(self.left(), [])

    async def test_malformed_cookies(self) -> None:
        """Each counts as an invalid cookie; a missing cookie doesn't."""
        upload = "/images/upload?upload=up"
        for method, path, body in (("GET", upload, None), ("PUT", upload, b"x"), ("GET", "/disks/1/content", None)):
            for odd in ("x", "2147483648", "-2147483649", "9" * 99, "5.0", "1_0", "\u00b2"):
                before = self.there.server.sessions._wrong._tries.get("127.0.0.1", (0, 0.0))[0]
                code, _, said = await self.ask(method, path, body, X_FluidVM_Cookie=odd)
                self.assertEqual((code, said.startswith(b"cookie: ")), (400, True), (odd, said))
                self.assertEqual(self.there.server.sessions._wrong._tries["127.0.0.1"][0], before + 1)
            self.assertEqual((await self.ask(method, path, body, X_FluidVM_Cookie=""))[0], 401)

    async def test_guessing_cookies_is_throttled(self) -> None:
        """After many invalid cookies the answer is delayed; that to a valid cookie isn't."""
        nobody = Client(self.there, 5, "127.0.0.1")
        for _ in range(FREE_COOKIES + 8):
            with contextlib.suppress(Exception):
                self.there.server.sessions.find(5, "127.0.0.1")
        upload = "/images/upload?upload=up"
        for method, path, body in (("GET", upload, None), ("PUT", upload, b"x"), ("GET", "/disks/1/content", None)):
            asking = Deferred.fromCoroutine(self.ask(method, path, body, client=nobody))
            await deferLater(reactor, 0.2, lambda: None)
            self.assertFalse(asking.called, (method, path))
            self.there.clock.advance(20)
            self.assertEqual((await asking)[0], 429)
        self.assertEqual(await self.size(), 0)

    async def test_too_large_uploads(self) -> None:
        self.files.most = 1000
        code, words = await self.put(bytes(1001))
        self.assertEqual((code, "--max-image" in words), (413, True))
        # If the length is too large, it is refused before the first byte.
        head = f"{self.begun}Content-Length: {2**40}\r\n\r\n"
        raw = await self.raw(head.encode())
        await self.until(lambda: b"413" in raw.seen)
        # With chunks, the length isn't known in advance.
        head = f"{self.begun}Transfer-Encoding: chunked\r\n\r\n"
        raw = await self.raw(head.encode() + b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n")
        await self.until(lambda: b"413" in raw.seen)

    async def test_a_full_disk(self) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(image_files, "_write", full)
        self.assertEqual((await self.put(b"x"))[0], 507)
        raw = await self.raw(f"{self.begun}Content-Length: {3 * PIECE}\r\n\r\n".encode() + bytes(PIECE))
        await self.until(lambda: b"507" in raw.seen)


class ContentTests(TransferCase):
    async def test_ranges(self) -> None:
        disk = await self.disk()
        path, whole = f"/disks/{disk}/content", WHOLE.ljust(7 * MIB, b"\0")
        for value, start, end in (
            ("bytes=0-99", 0, 100),
            (f"bytes={6 * MIB}-", 6 * MIB, 7 * MIB),
            ("bytes=-10", 7 * MIB - 10, 7 * MIB),
            (f"bytes=100-{8 * MIB}", 100, 7 * MIB),
        ):
            code, headers, body = await self.ask("GET", path, Range=value)
            self.assertEqual((code, body), (206, whole[start:end]), value)
            self.assertEqual(headers.getRawHeaders("content-range"), [f"bytes {start}-{end - 1}/{7 * MIB}"])
        code, headers, _ = await self.ask("GET", path, Range=f"bytes={7 * MIB}-")
        self.assertEqual((code, headers.getRawHeaders("content-range")), (416, [f"bytes */{7 * MIB}"]))
        for value in ("bytes=5-4", "bytes=-", "lines=1-2", "bytes=0-1,5-6"):
            self.assertEqual((await self.ask("GET", path, Range=value))[0], 200, value)
        code, headers, body = await self.ask("HEAD", path)
        self.assertEqual((code, headers.getRawHeaders("content-length"), body), (200, [str(7 * MIB)], b""))

    async def test_refusals(self) -> None:
        ann = await self.admin.user("ann", address="127.0.0.1")
        eve = await self.admin.user("eve", "auditor", address="127.0.0.1")
        disk = await self.disk()
        for client, status in ((ann, 404), (eve, 403), (Client(self.there, 5, "127.0.0.1"), 401)):
            self.assertEqual((await self.ask("GET", f"/disks/{disk}/content", client=client))[0], status)
        for path in ("999/content", "0/content", "x/content", "/content", f"{disk}/content/"):
            self.assertEqual((await self.ask("GET", f"/disks/{path}"))[0], 404, path)
        self.assertEqual((await self.ask("DELETE", f"/disks/{disk}/content"))[0], 405)
        vm = await self.admin.do("create_vm", {"name": "web", "compute_node": self.node, "disks": [{"disk": disk}]})
        self.assertEqual((await self.ask("GET", f"/disks/{disk}/content", Range="bytes=0-0"))[0], 206)
        await self.admin.do("start_vm", vm)
        self.assertEqual((await self.ask("GET", f"/disks/{disk}/content"))[0], 409)

    async def test_a_client_that_does_not_read(self) -> None:
        disk = await self.admin.do("create_disk", {"name": "big", "size": 400, "format": "raw", "compute_node": self.node})
        asked: list[int] = []
        read = Contents.read

        def counted(contents: Contents, offset: int, length: int) -> Any:
            asked.append(offset)
            return read(contents, offset, length)

        self.patch(Contents, "read", counted)
        raw = await self.raw(b"")
        raw.transport.pauseProducing()
        raw.transport.write(
            f"GET /disks/{disk}/content?cookie={self.admin.cookie} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        await self.until(lambda: asked)
        await deferLater(reactor, 0.5, lambda: None)
        self.assertLess(len(asked), 10)
        raw.transport.resumeProducing()
        await self.until(lambda: len(raw.seen) > 400 * MIB)
        self.assertEqual(len(asked), 100)

    async def test_a_disk_that_fails_during_the_download(self) -> None:
        disk = await self.disk()
        read = Contents.read

        def failing(contents: Contents, offset: int, length: int) -> Any:
            if offset:
                raise OSError("gone")
            return read(contents, offset, length)

        self.patch(Contents, "read", failing)
        raw = await self.raw(
            f"GET /disks/{disk}/content?cookie={self.admin.cookie} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        await self.until(lambda: raw.lost)
        self.assertLess(len(raw.seen), 5 * MIB)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertIn(b"Content-Length: %d\r\n" % (7 * MIB), bytes(raw.seen[:2000]))

    async def test_the_limit_of_transfers(self) -> None:
        disk = await self.disk()
        self.patch(transfers, "MOST", 2)
        others = [await self.raw(f"{self.begun_as(name)}Content-Length: 9\r\n\r\n".encode()) for name in ("a", "b")]
        await self.until(lambda: len(self.there.server.transfers) == 2)
        self.assertEqual((await self.ask("GET", f"/disks/{disk}/content"))[0], 503)
        self.assertEqual((await self.put(b"x"))[0], 503)
        for raw in others:
            raw.transport.abortConnection()
        await self.until(lambda: len(self.there.server.transfers) == 0)
        self.assertEqual((await self.ask("GET", f"/disks/{disk}/content"))[0], 200)
