"""Images fetched from untrusted servers, over real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from fluidvm.images import fetch as image_fetch
from fluidvm.images.fetch import HEAD_TIME, LEAST, MOST_HELD, SILENCE, Source
from fluidvm.images.urls import ImageUrls
from fluidvm.model.faults import Unavailable
from tests.hostile_server import HostileServer, endless, says, whole
from tests.unit.api.storage.test_images import WHOLE, ImageCase, digest

FILE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WHOLE)


class HostileServerCase(ImageCase):
    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        self.server = HostileServer(whole(WHOLE))
        self.addCleanup(self.server.stop)
        # The clock runs faster than bytes arrive, so these timeouts are long; tests of timeouts restore them.
        self.patch(image_fetch, "HEAD_TIME", 1e9)
        self.patch(image_fetch, "SILENCE", 1e9)
        await super().setUp()

    def options(self) -> tuple[str, ...]:
        return ("--image-urls", f"{self.server.base},{self.server.base.replace('http:', 'https:')}", "--max-image", "8")

    def spec(self, **more: Any) -> dict[str, Any]:
        return {"name": "os", "format": "raw", "url": self.server.base + "os", "sha256": digest(WHOLE), **more}

    async def fails(self, code: int, words: str, **more: Any) -> None:
        """Check that importing fails with this fault, and leaves no image, no file and no connection."""
        found = await self.admin.fail("import_image", self.spec(**more))
        self.assertEqual((found[0], words in found[1]), (code, True), found)
        self.assertEqual((await self.admin.call("list_images"), self.left()), ([], []))
        await self.until(lambda: not self.server.open)


class BoundTests(HostileServerCase):
    async def test_head_lines_without_end(self) -> None:
        self.server.answer = endless(self.server, b"HTTP/1.1 200 OK\r\n", b"X-Line: %s\r\n" % (b"x" * 1000) * 64)
        await self.fails(503, "the response headers are longer than 64 KiB")
        self.assertLess(self.server.sent, 2**25)  # what the kernel's buffers hold

    async def test_one_head_line_without_end(self) -> None:
        self.server.answer = endless(self.server, b"HTTP/1.1 200 OK\r\nX-Line: ", b"x" * 2**16)
        await self.fails(503, self.server.base)
        self.assertLess(self.server.sent, 2**25)

    async def test_interim_answers_without_end(self) -> None:
        self.server.answer = endless(self.server, b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)
        await self.fails(503, "the response headers are longer than 64 KiB")

    async def test_a_body_without_end(self) -> None:
        self.server.answer = endless(self.server, b"HTTP/1.1 200 OK\r\n\r\n", bytes(2**16))
        await self.fails(409, "8 MiB of --max-image")

    async def test_a_length_that_is_too_large(self) -> None:
        """The task fails without waiting for a byte."""
        self.server.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**61)
        await self.fails(409, "8 MiB of --max-image")

    async def test_answers_that_are_not_http(self) -> None:
        for data in (
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 999\r\n\r\n",
            b"\0" * 100,
        ):
            self.server.answer = lambda transport, data=data: (transport.write(data), transport.loseConnection())  # type: ignore[assignment, misc]
            await self.fails(503, self.server.base)

    async def test_redirections(self) -> None:
        for location in (
            "/secret",
            "../secret",
            "%2e%2e/secret",
            "//127.0.0.1:1/to/os",
            "http://user@127.0.0.1/to/os",
            "\\secret",
            self.server.base.replace("http:", "https:").replace("/to/", "/"),
        ):
            self.server.answer = says(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 9\r\n\r\n".encode())
            self.server.asked.clear()
            await self.fails(403, "is not allowed")
            self.assertEqual(len(self.server.asked), 1)

    async def test_a_redirection_to_a_neighbour(self) -> None:
        def answer(transport: Any) -> None:
            first = len(self.server.asked) == 1
            (says(b"HTTP/1.1 302 Found\r\nLocation: new/os\r\n\r\n") if first else whole(WHOLE))(transport)

        self.server.answer = answer
        await self.admin.do("import_image", self.spec())
        self.assertIn(b"GET /to/new/os HTTP/1.1", self.server.asked[1])

    async def test_memory(self) -> None:
        """Bytes that aren't read yet stay on the network."""
        self.server.answer = endless(self.server, b"HTTP/1.1 200 OK\r\n\r\n", bytes(2**16))
        source = Source(reactor, Clock(), ImageUrls([self.server.base]), self.server.base + "os")
        self.addCleanup(source.close)
        self.assertIs(await source.open(), None)
        await self.until(lambda: len(source._body._held) >= MOST_HELD)
        await deferLater(reactor, 0.2, lambda: None)
        self.assertLess(len(source._body._held), MOST_HELD + 2**20)
        self.assertGreaterEqual(len(await source.read()), MOST_HELD)

    async def test_a_plan(self) -> None:
        """A fetched file counts before its first byte if its length is announced, otherwise with each piece."""
        plan = await self.admin.do("create_resource_plan", "small", {"disk_space": 3})
        ann = await self.admin.user("ann")
        await self.admin.do("set_user_resource_plan", 2, plan)
        appended: list[int] = []
        append = self.files.append
        self.patch(self.files, "append", lambda id, offset, data: appended.append(len(data)) or append(id, offset, data))
        self.server.answer = whole(WHOLE)
        code, words = await ann.fail("import_image", self.spec())
        self.assertEqual((code, "disk_space" in words, appended), (507, True, []))
        self.server.answer = endless(self.server, b"HTTP/1.1 200 OK\r\n\r\n", bytes(2**16))
        self.assertEqual((await ann.fail("import_image", self.spec()))[0], 507)
        self.assertLessEqual(sum(appended), 3 * 2**20)
        self.assertEqual(self.left(), [])


class TimeTests(HostileServerCase):
    """The timeouts; only the clock ends the waits."""

    async def test_no_answer(self) -> None:
        self.patch(image_fetch, "HEAD_TIME", HEAD_TIME)
        for answer in (lambda transport: None, says(b"HTTP/1.1 200 OK\r\nX-Line")):
            self.server.answer = answer
            await self.fails(503, "no answer within 60 s")

    async def test_no_handshake(self) -> None:
        self.patch(image_fetch, "HEAD_TIME", HEAD_TIME)
        await self.fails(503, "no answer within 60 s", url=self.server.base.replace("http:", "https:") + "os")

    async def test_a_head_byte_by_byte(self) -> None:
        """Bytes that arrive don't extend the timeout."""
        clock = Clock()
        self.server.answer = lambda transport: None
        source = Source(reactor, clock, ImageUrls([self.server.base]), self.server.base + "os")
        self.patch(image_fetch, "HEAD_TIME", HEAD_TIME)
        opening = source.open()
        await self.until(lambda: self.server.asked)
        (connection,) = self.server.open
        for _ in range(int(HEAD_TIME) - 1):
            connection.transport.write(b"H")
            clock.advance(1)
        self.assertNoResult(opening)
        clock.advance(1)
        await self.assertFailure(opening, Unavailable)

    async def test_a_body_byte_by_byte(self) -> None:
        clock = Clock()
        source = Source(reactor, clock, ImageUrls([self.server.base]), self.server.base + "os")
        self.patch(image_fetch, "SILENCE", SILENCE)
        self.server.answer = says(FILE + WHOLE[:LEAST])
        self.assertEqual(await source.open(), len(WHOLE))
        self.assertEqual(await source.read(), WHOLE[:LEAST])
        reading = source.read()
        (connection,) = self.server.open
        for _ in range(int(SILENCE) - 1):
            connection.transport.write(b"x")
            clock.advance(1)
        self.assertNoResult(reading)
        clock.advance(1)
        await self.assertFailure(reading, Unavailable)
        await self.until(lambda: not self.server.open)


class EndTests(HostileServerCase):
    """Cancelled, or resumed at the next start, in each phase."""

    PHASES: tuple[Callable[[Any], None], ...] = (
        lambda transport: None,
        says(b"HTTP/1.1 200 OK\r\nX-"),
        says(FILE),
        says(FILE + WHOLE[:LEAST]),
        says(FILE + WHOLE[:-1]),
    )

    async def begin(self, answer: Callable[[Any], None]) -> int:
        self.server.answer = answer
        self.server.asked.clear()
        await self.admin.call("import_image", self.spec())
        ec: int = await self.admin.call("commit_tasks")
        await self.until(lambda: self.server.asked)
        await deferLater(reactor, 0.1, lambda: None)
        return ec

    async def test_cancelled(self) -> None:
        for answer in self.PHASES:
            ec = await self.begin(answer)
            self.assertEqual(await self.admin.call("cancel_tasks", ec), 1)
            await self.admin.finish(ec)
            context = await self.admin.call("get_execution_context", ec)
            self.assertEqual((context["errors"], context["tasks"][0]["code"]), (["cancelled"], 409))
            await self.until(lambda: not self.server.open)
            self.assertEqual(self.left(), [])

    async def test_cancelled_while_it_is_inspected(self) -> None:
        """A cancellation that was counted takes effect."""
        finish, waiting = self.files.finish, Deferred[None]()
        self.patch(self.files, "finish", lambda *arguments: waiting.addCallback(lambda nothing: finish(*arguments)))
        ec = await self.begin(whole(WHOLE))
        while await self.admin.call("get_status", ec) != "checking":
            await deferLater(reactor, 0.01, lambda: None)
        self.assertEqual(await self.admin.call("cancel_tasks", ec), 1)
        waiting.callback(None)
        await self.admin.finish(ec)
        self.assertEqual(await self.admin.call("get_errors", ec), ["cancelled"])
        self.assertEqual(self.left(), [])

    async def test_the_server_stops(self) -> None:
        for number, answer in enumerate(self.PHASES):
            ec = await self.begin(answer)
            await self.there.stop()
            self.running.remove(self.there)
            await self.until(lambda: not self.server.open)
            self.server.answer = whole(WHOLE)
            self.there = self.serve(*self.options())
            self.admin = await self.there.login()
            await self.admin.finish(ec)
            self.assertEqual(await self.admin.call("get_errors", ec), [""])
            (image,) = await self.admin.call("list_images")
            self.assertEqual((image["state"], image["sha256"]), ("ready", digest(WHOLE)), number)
            await self.admin.do("delete_image", image["id"])
