"""Transfers end when they are not allowed any more, free their place when they end, and are in the audit log."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from fluidvm.access.transfers import MOST, MOST_OF_USER, Contents
from fluidvm.images.files import MIB, PIECE
from fluidvm.model.objects import vm_state
from fluidvm.store.objects import Update
from fluidvm.wire.uploads import LEAST
from tests.support import Client
from tests.unit.access.test_transfers import Raw, TransferCase
from tests.unit.api.storage.test_images import WHOLE

BIG = 200


class RightsCase(TransferCase):
    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.ann = await self.admin.user("ann", address="127.0.0.1")

    async def lines(self, event: str) -> list[dict[str, Any]]:
        """The audit log's lines of an event, with parsed arguments."""
        found = await self.admin.call("list_audit", {"event": event})
        return [{**line, "arguments": json.loads(line["arguments"])} for line in found]

    async def reading(self, disk: int, client: Client | None = None) -> Raw:
        """A client that has begun to read a disk, and is paused."""
        reads: list[int] = []
        read = Contents.read
        self.patch(Contents, "read", lambda self, offset, length: reads.append(offset) or read(self, offset, length))
        raw = await self.raw(b"")
        raw.transport.pauseProducing()
        cookie = (client or self.ann).cookie
        raw.transport.write(f"GET /disks/{disk}/content?cookie={cookie} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await self.until(lambda: reads)
        await deferLater(reactor, 0.1, lambda: None)
        return raw

    async def sending(self, size: int = PIECE + 1000, name: str = "up", client: Client | None = None) -> Raw:
        """A client that has sent a part of an upload, and is paused."""
        head = f"{self.begun_as(name, client or self.ann)}Content-Length: {BIG * MIB}\r\n\r\n"
        before = len(self.there.server.transfers)
        raw = await self.raw(head.encode() + bytes(size))
        await self.until(lambda: len(self.there.server.transfers) > before)
        return raw


class DownloadTests(RightsCase):
    async def disk(self) -> int:  # type: ignore[override]
        spec = {"name": "big", "size": BIG, "format": "raw", "compute_node": self.node}
        return await self.ann.do("create_disk", spec)

    async def ends(self, raw: Raw, words: str) -> None:
        """The transfer ends at once, even if the client doesn't read; the client notices that content is missing."""
        await self.until(lambda: len(self.there.server.transfers) == 0)
        raw.transport.resumeProducing()
        await self.until(lambda: raw.lost)
        self.assertIn(b"HTTP/1.1 200", bytes(raw.seen[:20]))
        self.assertIn(b"Content-Length: %d\r\n" % (BIG * MIB), bytes(raw.seen[:1000]))
        self.assertLess(len(raw.seen), BIG * MIB)
        (line,) = await self.lines("download")
        self.assertIn(words, line["error"])

    async def ends_by(self, change: Callable[[int], Awaitable[Any]], words: str) -> None:
        disk = await self.disk()
        raw = await self.reading(disk)
        await change(disk)
        await self.ends(raw, words)

    async def test_the_user_is_disabled(self) -> None:
        await self.ends_by(lambda disk: self.admin.do("set_user_enabled", 2, False), "not logged in")

    async def test_the_user_becomes_an_auditor(self) -> None:
        await self.ends_by(lambda disk: self.admin.do("set_user_role", 2, "auditor"), "not for auditors")

    async def test_the_session_is_closed(self) -> None:
        async def close(disk: int) -> None:
            await self.ann.call("logout")
            await self.there.pass_time(1)

        await self.ends_by(close, "not logged in")

    async def test_the_disk_gets_another_owner(self) -> None:
        await self.ends_by(lambda disk: self.admin.do("set_disk_owner", disk, 1), "A task is using disk")

    async def test_the_disk_is_deleted(self) -> None:
        await self.ends_by(lambda disk: self.ann.do("delete_disk", disk), "A task is using disk")

    async def with_vm(self) -> tuple[int, Raw]:
        disk = await self.disk()
        vm = await self.ann.do("create_vm", {"name": "web", "compute_node": self.node, "disks": [{"disk": disk}]})
        return vm, await self.reading(disk)

    async def test_its_vm_is_deleted(self) -> None:
        vm, raw = await self.with_vm()
        await self.ann.do("delete_vm", vm)
        await self.ends(raw, "A task is using disk")

    async def test_its_vm_is_started(self) -> None:
        """The content would be partly old and partly new."""
        vm, raw = await self.with_vm()
        await self.ann.do("start_vm", vm)
        await self.ann.do("stop_vm", vm)
        await self.ends(raw, "A task is using disk")

    async def test_its_vm_is_started_outside_of_the_server(self) -> None:
        vm, raw = await self.with_vm()
        await self.there.server.inventory.commit([Update("vm", vm, vm_state("running"))])
        await self.there.server.inventory.commit([Update("vm", vm, vm_state("stopped"))])
        await self.ends(raw, "which is running")

    async def test_a_task_between_two_reads(self) -> None:
        """A task that began and ended while a part was read."""
        disk = await self.disk()
        read = Contents.read

        def slow(contents: Contents, offset: int, length: int) -> Any:
            renaming = deferLater(reactor, 0, lambda: None)
            if offset == 3 * PIECE:
                renaming.addCallback(lambda nothing: Deferred.fromCoroutine(self.ann.do("set_disk_name", disk, "new")))
            return renaming.addCallback(lambda nothing: read(contents, offset, length))

        self.patch(Contents, "read", slow)
        raw = await self.raw(
            f"GET /disks/{disk}/content?cookie={self.ann.cookie} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        await self.ends(raw, "A task is using disk")
        self.assertLessEqual(len(raw.seen), 3 * PIECE + 1000)

    async def test_audit_line_of_a_complete_download(self) -> None:
        disk = await self.ann.do("create_disk", {"name": "d", "size": 5, "format": "raw", "compute_node": self.node})
        self.assertEqual((await self.ask("GET", f"/disks/{disk}/content", client=self.ann))[0], 200)
        self.assertEqual((await self.ask("GET", f"/disks/{disk}/content", client=self.ann, Range=f"bytes={MIB}-"))[0], 206)
        told = [
            {key: line.get(key) for key in ("user", "name", "address", "target_type", "target", "code", "arguments")}
            for line in await self.lines("download")
        ]
        who = {"user": 2, "name": "ann", "address": "127.0.0.1", "target_type": "disk", "target": disk, "code": 0}
        self.assertEqual(
            told,
            [{**who, "arguments": {"first": 0, "bytes": 5 * MIB}}, {**who, "arguments": {"first": MIB, "bytes": 4 * MIB}}],
        )

    async def test_audit_line_of_a_download_that_the_client_ended(self) -> None:
        raw = await self.reading(await self.disk())
        raw.transport.abortConnection()
        await self.until(lambda: len(self.there.server.transfers) == 0)
        (line,) = await self.lines("download")
        self.assertEqual((line["code"], line["error"]), (503, "The connection ended before everything was sent."))
        self.assertGreater(line["arguments"]["bytes"], 0)


class UploadTests(RightsCase):
    async def ends(self, raw: Raw, status: bytes) -> None:
        """The client is answered at once; what was received is kept, and the upload is not in use."""
        await self.until(lambda: raw.seen)
        self.assertIn(b"HTTP/1.1 " + status, bytes(raw.seen))
        self.assertEqual(len(self.there.server.transfers), 0)
        self.assertEqual(self.left(), ["uploads/2-up"])
        (line,) = await self.lines("upload")
        self.assertEqual((line["user"], line["arguments"]["upload"], line["code"]), (2, "up", int(status)))
        self.assertGreaterEqual(line["arguments"]["bytes"], PIECE)
        self.assertEqual(len(self.there.server.uploads._busy), 0)

    async def began(self) -> Raw:
        raw = await self.sending()
        await self.until(lambda: self.left())
        return raw

    async def test_the_user_is_disabled(self) -> None:
        raw = await self.began()
        await self.admin.do("set_user_enabled", 2, False)
        await self.ends(raw, b"401")

    async def test_the_user_becomes_an_auditor(self) -> None:
        raw = await self.began()
        await self.admin.do("set_user_role", 2, "auditor")
        await self.ends(raw, b"403")

    async def test_the_session_is_closed(self) -> None:
        raw = await self.began()
        (session,) = await self.admin.call("list_sessions", {"user": 2})
        await self.admin.call("close_session", session["id"])
        await self.there.pass_time(1)
        await self.ends(raw, b"401")

    async def test_the_server_stops(self) -> None:
        """What was received is kept and counts after a restart; nothing that the upload needs is stopped earlier."""
        raw = await self.began()
        server, gate, asked, stopped = self.there.server, Deferred[None](), [], []
        uploaded, stop = self.files.uploaded, server._nodes.stop
        self.patch(
            self.files, "uploaded", lambda *key: asked.append(key) or gate.addCallback(lambda nothing: uploaded(*key))
        )
        self.patch(server._nodes, "stop", lambda: stopped.append(True) or stop())
        stopping = Deferred.fromCoroutine(self.there.stop())
        await self.until(lambda: asked)
        self.assertEqual(stopped, [])
        gate.callback(None)
        await stopping
        self.assertEqual((stopped, server.uploads._busy), ([True], set()))
        self.running.remove(self.there)
        await self.until(lambda: b"HTTP/1.1 503" in raw.seen)
        self.there = self.serve()
        self.admin = await self.there.login()
        size = await self.files.uploaded(2, "up")
        self.assertEqual(self.there.server.uploads._known[2, "up"].size, size)

    async def test_two_uploads_of_the_same_name(self) -> None:
        """The second one is refused, and the first one continues."""
        half = PIECE + 10
        raw = await self.raw(f"{self.begun_as('up', self.ann)}Content-Length: {len(WHOLE)}\r\n\r\n".encode() + WHOLE[:half])
        await self.until(lambda: self.left())
        code, words = await self.put(b"x" * 100, client=self.ann)
        self.assertEqual((code, "is already in progress" in words), (409, True))
        code, _ = await self.put(b"x", client=self.ann, Content_Range=f"bytes {PIECE}-{PIECE}/{2 * PIECE}")
        self.assertEqual(code, 409)
        self.assertEqual((await self.ann.fail("import_image", {"name": "os", "format": "raw", "upload": "up"}))[0], 409)
        raw.transport.write(WHOLE[half:])
        await self.until(lambda: b"HTTP/1.1 200" in raw.seen)
        self.assertEqual((self.directory / "state/uploads/2-up").read_bytes(), WHOLE)
        # Another name, or the same name for another user, is a different upload.
        self.assertEqual((await self.put(b"x"))[0], 200)

    async def test_audit_lines(self) -> None:
        await self.put(b"abc", client=self.ann)
        raw = await self.sending(1000)
        raw.transport.abortConnection()
        await self.until(lambda: len(self.there.server.transfers) == 0)
        await self.put(b"x", client=self.ann, Content_Range="bytes 5000-5000/5001")
        good, broken, refused = await self.lines("upload")
        self.assertEqual((good["name"], good["address"], good["code"]), ("ann", "127.0.0.1", 0))
        self.assertEqual(good["arguments"], {"upload": "up", "bytes": 3})
        self.assertEqual((broken["code"], broken["error"]), (503, "The connection ended before everything was received."))
        self.assertEqual((refused["code"], refused["arguments"]["bytes"]), (409, 0))


class SessionTests(RightsCase):
    def options(self) -> tuple[str, ...]:
        return ("--session-timeout", "30")

    async def test_transferred_bytes_keep_the_session(self) -> None:
        """Transferred bytes count as a ping; an open connection alone doesn't."""
        raw = await self.sending(1000)
        for _ in range(5):
            await self.until(lambda: next(iter(self.there.server.transfers._under_way)).count)
            for _ in range(25):
                await self.there.pass_time(1)
            self.assertEqual(raw.seen, b"")
            transfer = next(iter(self.there.server.transfers._under_way))
            before = transfer.count
            raw.transport.write(bytes(1000))
            await self.until(lambda before=before, transfer=transfer: transfer.count > before)
            await self.there.pass_time(1)
        for _ in range(32):
            await self.there.pass_time(1)
        await self.until(lambda: b"HTTP/1.1 401" in raw.seen)

    async def test_a_slow_node_does_not_end_the_session(self) -> None:
        disk = await self.disk()
        held: list[tuple[Any, Deferred[Any]]] = []
        read = Contents.read

        def later(contents: Contents, offset: int, length: int) -> Deferred[Any]:
            waiting: Deferred[Any] = Deferred()
            waiting.addCallback(lambda nothing: read(contents, offset, length))
            held.append((contents, waiting))
            return waiting

        self.patch(Contents, "read", later)
        asked = Deferred.fromCoroutine(self.ask("GET", f"/disks/{disk}/content"))
        while not asked.called:
            await self.until(lambda: held or asked.called)
            for _, waiting in held[:]:
                for _ in range(100):
                    await self.there.pass_time(1)
                held.clear()
                waiting.callback(None)
        self.assertEqual((await asked)[2], WHOLE.ljust(7 * MIB, b"\0"))
        await self.admin.call("get_session")


class PlaceTests(RightsCase):
    """The number of transfers is limited, and each frees its place however it ends."""

    async def free(self) -> None:
        await self.until(lambda: len(self.there.server.transfers) == 0 and not self.there.server.uploads._busy)
        self.assertIsNone(self.there.server.transfers._looking)

    async def test_an_unknown_host(self) -> None:
        """Nothing is written, and no place is used."""
        for _ in range(MOST + 4):
            body = f"Content-Length: {2 * PIECE}\r\n\r\n".encode() + bytes(2 * PIECE)
            raw = await self.raw(self.begun_as("up", host="evil.example").encode() + body)
            await self.until(lambda raw=raw: b"HTTP/1.1 421" in raw.seen)
        self.assertEqual((len(self.there.server.transfers), self.left()), (0, []))
        self.assertEqual((await self.put(b"x"))[0], 200)

    async def test_every_early_end_frees_the_place(self) -> None:
        disk = await self.admin.do("create_disk", {"name": "d", "size": BIG, "format": "raw", "compute_node": self.node})
        get = f"GET /disks/{disk}/content?cookie={self.admin.cookie} HTTP/1.1\r\nHost: localhost\r\n"
        length = f"Content-Length: {BIG * MIB}\r\n"
        endings = {
            "after the head": (f"{self.begun}{length}\r\n", b""),
            "in the body": (f"{self.begun}{length}\r\n", bytes(2 * PIECE)),
            "before it may go on": (f"{self.begun}{length}Expect: 100-continue\r\n\r\n", b""),
            "in a chunk": (f"{self.begun}Transfer-Encoding: chunked\r\n\r\n", b"ff\r\nabc"),
            "with a bad chunk": (f"{self.begun}Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\nx\r\n"),
            "with a bad name": (f"{self.begun_as('../x')}{length}\r\n", b""),
            "with a bad range": (f"{self.begun}{length}Content-Range: bytes x\r\n\r\n", bytes(100)),
            "with a backward range": (
                f"{self.begun}{length}Content-Range: bytes 7-3/10\r\n\r\n",
                bytes(100),
            ),
            "with a range beyond its end": (f"{self.begun}{length}Content-Range: bytes 0-10/10\r\n\r\n", bytes(100)),
            "with a range of nothing": (f"{self.begun}{length}Content-Range: bytes 7-9/10\r\n\r\n", bytes(100)),
            "while it is given": (f"{get}\r\n", b""),
            "with a range that isn't there": (f"{get}Range: bytes={BIG * MIB}-\r\n\r\n", b""),
            "with the head alone": (f"{get.replace('GET', 'HEAD')}\r\n", b""),
            "twice at once": (f"{get.replace('GET', 'HEAD')}\r\n{get}\r\n", b""),
        }
        for name, (head, body) in endings.items():
            raw = await self.raw(head.encode() + body)
            await deferLater(reactor, 0.1, lambda: None)
            raw.transport.abortConnection()
            try:
                await self.free()
            except BaseException as error:
                raise AssertionError(name) from error
        self.assertEqual((await self.put(b"x"))[0], 200)

    async def test_a_request_that_takes_too_long(self) -> None:
        """A client that sends slowly doesn't get more time, and doesn't keep its place."""
        later = 0.0
        site = self.there.server._site
        self.patch(site, "seconds", lambda: reactor.seconds() + later)
        raw = await self.sending(LEAST + 10)
        later = 50.0
        raw.transport.write(bytes(LEAST))
        transfer = next(iter(self.there.server.transfers._under_way))
        await self.until(lambda: transfer.count >= 2 * LEAST)
        later = 100.0
        raw.transport.write(b"x")
        await self.until(lambda: transfer.count > 2 * LEAST + 10)
        self.assertEqual(bytes(raw.seen), b"")
        later = 115.0
        await self.until(lambda: b"HTTP/1.1 408" in raw.seen)
        raw.transport.abortConnection()
        await self.free()

    async def test_the_limit_of_one_user(self) -> None:
        raws = [await self.sending(10, f"up{number}") for number in range(MOST_OF_USER)]
        code, words = await self.put(b"x", "more", client=self.ann)
        self.assertEqual((code, f"You already have {MOST_OF_USER} transfers" in words), (503, True))
        disk = await self.ann.do("create_disk", {"name": "d", "size": 1, "format": "raw", "compute_node": self.node})
        self.assertEqual((await self.ask("GET", f"/disks/{disk}/content", client=self.ann))[0], 503)
        self.assertEqual((await self.put(b"x"))[0], 200)
        raws[0].transport.abortConnection()
        await self.until(lambda: len(self.there.server.transfers) < MOST_OF_USER)
        self.assertEqual((await self.put(b"x", "more", client=self.ann))[0], 200)
        self.assertLess(MOST_OF_USER, MOST)

    async def test_a_node_that_does_not_answer(self) -> None:
        """The place is free when the client has disconnected, even if the node still hasn't answered."""
        node = await self.admin.node("hung", hang=["measure_volume"])
        disk = await self.admin.do("create_disk", {"name": "d", "size": 1, "format": "raw", "compute_node": node})
        raw = await self.raw(
            f"GET /disks/{disk}/content?cookie={self.admin.cookie} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        await self.until(lambda: len(self.there.server.transfers))
        raw.transport.abortConnection()
        await self.free()
