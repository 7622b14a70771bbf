"""Uploads: their quota, what is stored of them, and the space that stays free on the disk."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from fluidvm.images import files as image_files
from fluidvm.images.disk_room import DiskRoom
from fluidvm.images.files import MIB, ImageFiles
from fluidvm.model.faults import Conflict, QuotaExceeded
from fluidvm.server.preflight import Lock, StartError, claim
from fluidvm.store import uploads as stored
from tests.unit.access.test_transfers import TransferCase
from tests.unit.api.storage.test_images import WHOLE, ImageCase


class PlanTests(TransferCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.ann = await self.admin.user("ann", address="127.0.0.1")
        self.plan = await self.admin.do("create_resource_plan", "small", {"disk_space": 7})
        await self.admin.do("set_user_resource_plan", 2, self.plan)

    async def used(self) -> int:
        return int((await self.ann.call("get_user_usage", 2))["disk_space"]["used"])

    async def told(self, head: str, name: str = "up") -> bytes:
        """The answer to a PUT that has sent only its header."""
        raw = await self.raw(f"{self.begun_as(name, self.ann)}{head}\r\nExpect: 100-continue\r\n\r\n".encode())
        await self.until(lambda: b"\r\n\r\n" in raw.seen)
        return bytes(raw.seen)

    async def test_before_the_first_byte(self) -> None:
        said = await self.told(f"Content-Length: {8 * MIB}")
        self.assertIn(b"HTTP/1.1 507", said)
        self.assertIn(b"disk_space", said)
        self.assertEqual((self.left(), await self.used()), ([], 0))

    async def test_announced_bytes_count(self) -> None:
        await self.raw(f"{self.begun_as('one', self.ann)}Content-Length: {5 * MIB}\r\n\r\n".encode())
        await self.until(lambda: len(self.there.server.transfers))
        self.assertEqual(await self.used(), 5)
        self.assertIn(b"HTTP/1.1 507", await self.told(f"Content-Length: {3 * MIB}", "two"))
        # Disks and uploads count together.
        self.assertEqual((await self.ann.fail("create_disk", {"name": "d", "size": 3, "compute_node": self.node}))[0], 507)
        await self.ann.do("create_disk", {"name": "d", "size": 2, "compute_node": self.node})

    async def test_chunks_count_as_they_arrive(self) -> None:
        await self.ann.do("create_disk", {"name": "d", "size": 2, "compute_node": self.node})
        raw = await self.raw(f"{self.begun_as('up', self.ann)}Transfer-Encoding: chunked\r\n\r\n".encode())
        raw.transport.write((b"100000\r\n" + bytes(MIB) + b"\r\n") * 9)
        await self.until(lambda: b"HTTP/1.1 507" in raw.seen)
        self.assertLessEqual(await self.used(), 7)
        self.assertLessEqual(sum(path.stat().st_size for path in (self.directory / "state/uploads").iterdir()), 5 * MIB)

    async def test_a_resumed_upload_counts_once(self) -> None:
        self.assertEqual((await self.put(WHOLE[: 4 * MIB], client=self.ann))[0], 200)
        self.assertEqual(await self.used(), 4)
        more = f"bytes {4 * MIB}-{len(WHOLE) - 1}/{len(WHOLE)}"
        self.assertEqual((await self.put(WHOLE[4 * MIB :], client=self.ann, Content_Range=more))[0], 200)
        self.assertEqual(await self.used(), 7)
        # A restarted upload counts instead of the old one, and an empty one releases its space.
        self.assertEqual((await self.put(WHOLE, client=self.ann))[0], 200)
        self.assertEqual((await self.put(b"", client=self.ann))[0], 200)
        self.assertEqual(await self.used(), 0)

    async def test_an_image_takes_its_uploads_space(self) -> None:
        await self.put(WHOLE, client=self.ann)
        spec = {"name": "os", "format": "raw", "upload": "up"}
        self.assertEqual((await self.ann.fail("import_image", {**spec, "sha256": "0" * 64}))[0], 409)
        self.assertEqual((await self.used(), self.left()), (7, ["uploads/2-up"]))
        image = await self.ann.do("import_image", spec)
        self.assertEqual(await self.used(), 7)
        self.assertEqual((await self.put(b"x", client=self.ann))[0], 507)
        await self.ann.do("delete_image", image)
        self.assertEqual(await self.used(), 0)

    async def test_create_image(self) -> None:
        """A copy that doesn't fit isn't started."""
        disk = await self.ann.do("create_disk", {"name": "d", "size": 4, "format": "raw", "compute_node": self.node})
        self.patch(self.files, "append", lambda *arguments: self.fail("a byte was written"))
        code, words = await self.ann.fail("create_image", disk, "copy")
        self.assertEqual((code, "4 MiB more requested" in words), (507, True), words)
        self.assertEqual(self.left(), [])

    async def test_a_copy_larger_than_the_maximum_of_an_image(self) -> None:
        disk = await self.admin.do("create_disk", {"name": "d", "size": 4, "format": "raw", "compute_node": self.node})
        self.files.most = 3 * MIB
        self.patch(self.files, "append", lambda *arguments: self.fail("a byte was written"))
        self.assertIn("3 MiB of --max-image", (await self.admin.fail("create_image", disk, "copy"))[1])


class MemoryTests(ImageCase):
    """What the server knows about uploads after a restart."""

    async def again(self) -> None:
        self.there = await self.restart(self.there)
        self.admin = await self.there.login()

    async def used(self) -> int:
        return int((await self.admin.call("get_user_usage", 1))["disk_space"]["used"])

    def path(self, name: str) -> Path:
        return self.directory / "state" / "uploads" / f"1-{name}"

    async def test_they_survive(self) -> None:
        await self.upload(WHOLE)
        await self.again()
        self.assertEqual((await self.used(), self.left()), (7, ["uploads/1-up"]))
        await self.admin.do("import_image", {"name": "os", "format": "raw", "upload": "up"})
        await self.again()
        self.assertEqual((await self.used(), self.left()), (7, ["images/1.img"]))

    async def test_registered_before_the_first_byte(self) -> None:
        """A server that dies during an upload: the announced length is known, and received bytes count."""
        writing = self.there.server.uploads.begin(1, "up", 0, 5 * MIB)
        await writing.register()
        (known,) = await self.there.server._database.run(stored.load)
        self.assertEqual(known[:3], (1, "up", 5 * MIB))
        self.assertFalse(self.path("up").exists())
        await writing.write(bytes(2 * MIB))
        await self.again()
        self.assertEqual((await self.used(), await self.files.uploaded(1, "up")), (2, 2 * MIB))
        self.there.server.uploads.begin(1, "up", 2 * MIB, 3 * MIB)

    async def test_files_without_a_record_are_set_aside(self) -> None:
        await self.upload(WHOLE)
        for name in ("1-stray", "x", "2-up"):
            self.path("up").with_name(name).write_bytes(b"somebody's")
        await self.again()
        self.assertEqual(self.left(), ["uploads/1-up"])
        self.path("stray").write_bytes(b"another")
        await self.again()
        aside = self.directory / "state" / "set-aside"
        self.assertEqual(
            {path.name: path.read_bytes() for path in aside.iterdir()},
            {
                "uploads-1-stray": b"somebody's",
                "uploads-1-stray.1": b"another",
                "uploads-x": b"somebody's",
                "uploads-2-up": b"somebody's",
            },
        )

    async def test_a_record_without_a_file_is_forgotten(self) -> None:
        await self.upload(WHOLE)
        self.path("up").unlink()
        await self.again()
        self.assertEqual(await self.used(), 0)
        self.assertEqual((await self.admin.fail("import_image", {"name": "os", "format": "raw", "upload": "up"}))[0], 404)

    async def test_an_upload_from_which_an_image_is_being_created(self) -> None:
        """The task resumes at the next start; meanwhile nobody can write to the upload or create another image from it."""
        await self.upload(WHOLE)
        hanging = self.patch(ImageFiles, "finish", lambda *arguments: Deferred())
        spec = {"name": "os", "format": "raw", "upload": "up"}
        await self.admin.call("import_image", spec)
        ec = await self.admin.call("commit_tasks")
        await self.until(lambda: self.left() == ["images/1.part"])
        self.assertRaises(Conflict, self.there.server.uploads.begin, 1, "up", 0, 5)
        self.assertEqual((await self.admin.fail("import_image", {**spec, "name": "other"}))[0], 409)
        await self.again()
        self.assertEqual(await self.used(), 7)
        hanging.restore()
        await self.again()
        await self.admin.finish(ec)
        self.assertEqual(await self.admin.call("get_errors", ec), [""])
        self.assertEqual((await self.used(), self.left()), (7, ["images/1.img"]))
        await self.upload(b"x")

    async def test_old_ones_are_dropped_every_hour(self) -> None:
        await self.upload(WHOLE)
        self.there.now += 2 * 86400
        await self.there.pass_time(3600)
        await self.until(lambda: not self.left())
        self.assertEqual(await self.used(), 0)
        await self.again()
        self.assertEqual((await self.used(), self.left()), (0, []))


class RoomTests(TransferCase):
    """The space that stays free on the disk."""

    def options(self) -> tuple[str, ...]:
        return ("--disk-reserve", str(2**40)) if "reserve" in self._testMethodName else ()

    async def test_a_disk_without_free_space_above_the_reserve(self) -> None:
        """On the real disk: nothing is written, and the server continues."""
        raw = await self.raw(f"{self.begun}Content-Length: 3\r\n\r\nabc".encode())
        await self.until(lambda: b"--disk-reserve" in raw.seen)
        self.assertIn(b"HTTP/1.1 507", raw.seen)
        disk = await self.admin.do("create_disk", {"name": "d", "size": 1, "format": "raw", "compute_node": self.node})
        code, words = await self.admin.fail("create_image", disk, "copy")
        self.assertEqual((code, "--disk-reserve" in words), (507, True))
        self.assertEqual(self.left(), [])

    async def test_space_that_runs_out_during_an_upload(self) -> None:
        room, written = 10 * MIB, 0
        self.files.room = DiskRoom(self.directory, 4 * MIB)
        real = image_files._write

        def write(path: Path, offset: int | None, data: bytes) -> None:
            nonlocal written
            written += len(data)
            real(path, offset, data)

        self.patch(image_files, "_write", write)
        self.patch(self.files.room, "free", lambda: room - written)
        raw = await self.raw(f"{self.begun}Transfer-Encoding: chunked\r\n\r\n".encode())
        raw.transport.write((b"100000\r\n" + bytes(MIB) + b"\r\n") * 12)
        await self.until(lambda: b"HTTP/1.1 507" in raw.seen)
        self.assertLessEqual(written, 6 * MIB)

    async def test_a_full_disk_in_a_task(self) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        disk = await self.admin.do("create_disk", {"name": "d", "size": 1, "format": "raw", "compute_node": self.node})
        self.patch(image_files, "_write", full)
        self.patch(self.files, "begin", lambda id: Deferred.fromCoroutine(_nothing()))
        code, words = await self.admin.fail("create_image", disk, "copy")
        self.assertEqual((code, "no room" in words), (507, True), words)

    def test_what_is_being_written_counts(self) -> None:
        room = DiskRoom(self.directory, 4)
        room.free = lambda: 10  # type: ignore[method-assign]
        with room.taking(6):
            self.assertRaises(QuotaExceeded, room.check, 1)
        room.check(6)
        self.assertRaises(QuotaExceeded, room.check, 7)
        self.assertGreater(DiskRoom(self.directory, 0).free(), 0)


async def _nothing() -> None:
    pass


class DirectoryTests(ImageCase):
    def options(self) -> tuple[str, ...]:
        return ("--images", str(self.directory / "elsewhere" / "images"))

    async def test_files_are_in_another_directory(self) -> None:
        await self.upload(WHOLE)
        self.assertFalse((self.directory / "state" / "uploads").exists())
        elsewhere = self.directory / "elsewhere" / "images"
        self.assertEqual((elsewhere / "uploads" / "1-up").read_bytes(), WHOLE)
        self.assertEqual(elsewhere.stat().st_mode & 0o777, 0o700)
        image = await self.admin.do("import_image", {"name": "os", "format": "raw", "upload": "up"})
        self.assertEqual((elsewhere / "images" / f"{image}.img").read_bytes(), WHOLE)

    async def test_one_server_at_a_time(self) -> None:
        await self.there.stop()
        self.running.remove(self.there)
        state = self.directory / "another"
        settings = self.settings(*self.options(), "--http", "tcp:0:interface=127.0.0.1")
        lock = Lock()
        self.addCleanup(lock.close)
        claim(lock, settings)
        other = self.settings("--state", str(state), *self.options())
        self.assertIn("another server uses it", str(self.assertRaises(StartError, claim, lock, other)))
