"""Images created from uploads, from URLs and from disks; disks created from images."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from fluidvm.driver import IDisks, IImages
from fluidvm.images import fetch as image_fetch
from fluidvm.images.files import MIB, PIECE
from fluidvm.images.uploads import MOST_UPLOADS
from fluidvm.model.faults import Conflict, QuotaExceeded
from tests.support import Client, Running, ServerCase

WHOLE = bytes(range(256)) * 4096 + bytes(5 * MIB) + b"the end of it"
"""More than one piece of the transfers, with a hole, and not a whole number of MiB."""


def qcow2(size: int = 8 * MIB, backing: int = 0, features: int = 0, encrypted: int = 0, version: int = 3) -> bytes:
    """Only the header, as qemu-img writes it."""
    head = b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQ", version, backing, 0, 16, size, encrypted, 0, 0, 0, 0, 0, 0)
    return head.ljust(72, b"\0")[:72] + struct.pack(">Q", features) + bytes(1000)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ImageCase(ServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.there = self.serve(*self.options())
        self.admin = await self.there.login()
        self.node = await self.admin.node()

    def options(self) -> tuple[str, ...]:
        return ()

    @property
    def files(self) -> Any:
        return self.there.server._images

    async def upload(self, data: bytes, name: str = "up", user: int = 1) -> None:
        """Upload a file, as PUT does."""
        writing = self.there.server.uploads.begin(user, name, 0, len(data))
        try:
            await writing.register()
            for offset in range(0, max(1, len(data)), PIECE):
                await writing.write(data[offset : offset + PIECE])
        finally:
            await writing.end()

    async def imported(self, data: bytes = WHOLE, format: str = "raw", client: Client | None = None, **more: Any) -> int:
        """Create an image."""
        await self.upload(data)
        return await (client or self.admin).do("import_image", {"name": "os", "format": format, "upload": "up", **more})

    async def contents(self, disk: int, running: Running | None = None) -> bytes:
        """The content of a disk."""
        record = await self.admin.call("get_disk", disk)
        resources = (running or self.there).server.dispatcher._services.resources
        connection = await resources.nodes.connection(record["compute_node"], IImages)
        disks = await resources.nodes.connection(record["compute_node"], IDisks)
        (volume,) = [one for one in await disks.list_volumes(record["pool"]) if one.path == record["path"]]
        found = b""
        while piece := await connection.read_volume(record["pool"], volume.name, record["format"], len(found), PIECE):
            found += piece
        return found

    def left(self) -> list[str]:
        """The existing files."""
        state = self.directory / "state"
        return sorted(str(path.relative_to(state)) for kind in ("images", "uploads") for path in (state / kind).iterdir())


class UploadTests(ImageCase):
    async def test_an_image_and_a_disk_of_it(self) -> None:
        image = await self.imported(sha256=digest(WHOLE))
        record = await self.admin.call("get_image", image)
        self.assertEqual(
            {key: record[key] for key in record if key not in ("created", "version")},
            {
                "id": image,
                "name": "os",
                "owner": 1,
                "public": False,
                "size": 7,
                "format": "raw",
                "sha256": digest(WHOLE),
                "state": "ready",
            },
        )
        self.assertEqual(self.left(), [f"images/{image}.img"])
        disk = await self.admin.do("create_disk", {"name": "d", "image": image, "compute_node": self.node})
        record = await self.admin.call("get_disk", disk)
        self.assertEqual((record["size"], record["format"], record["backing_image"]), (7, "raw", image))
        self.assertEqual(await self.contents(disk), WHOLE.ljust(7 * MIB, b"\0"))

    async def test_an_image_is_inspected_before_each_use(self) -> None:
        """An image that an earlier release accepted by other rules."""
        raw = await self.imported()
        await self.upload(qcow2())
        image = await self.admin.do("import_image", {"name": "q", "format": "qcow2", "upload": "up"})
        for number, data, words in (
            (image, qcow2(backing=0x100), "refers to another file"),
            (image, qcow2(size=64 * MIB), "disk size is 64 MiB now, and was 8 MiB"),
            (raw, qcow2().ljust(len(WHOLE), b"\0"), "starts like a qcow2 image"),
        ):
            (self.directory / "state" / "images" / f"{number}.img").write_bytes(data)
            code, said = await self.admin.fail("create_disk", {"name": "d", "image": number, "compute_node": self.node})
            self.assertEqual((code, "import it again" in said, words in said), (409, True, True), said)
            self.assertEqual(await self.admin.call("list_disks"), [])

    async def test_an_image_of_a_disk_that_is_larger_than_its_image(self) -> None:
        image = await self.imported(qcow2(), "qcow2")
        spec = {"compute_node": self.node, "image": image}
        larger = await self.admin.do("create_disk", {"name": "a", "size": 20, **spec})
        grown = await self.admin.do("create_disk", {"name": "b", **spec})
        await self.admin.do("resize_disk", grown, 20)
        for disk in (larger, grown):
            copy = await self.admin.do("create_image", disk, f"copy{disk}")
            self.assertEqual((await self.admin.call("get_image", copy))["size"], 20)
            made = {"name": f"again{disk}", "compute_node": self.node, "image": copy}
            self.assertEqual((await self.admin.call("get_disk", await self.admin.do("create_disk", made)))["size"], 20)

    async def test_larger_disks(self) -> None:
        raw = await self.imported()
        disk = await self.admin.do("create_disk", {"name": "d", "image": raw, "size": 20, "compute_node": self.node})
        self.assertEqual(await self.contents(disk), WHOLE.ljust(20 * MIB, b"\0"))
        await self.upload(qcow2())
        image = await self.admin.do("import_image", {"name": "q", "format": "qcow2", "upload": "up"})
        self.assertEqual((await self.admin.call("get_image", image))["size"], 8)
        disk = await self.admin.do("create_disk", {"name": "e", "image": image, "size": 20, "compute_node": self.node})
        self.assertEqual((await self.admin.call("get_disk", disk))["size"], 20)
        self.assertEqual(await self.contents(disk), qcow2(20 * MIB))
        spec = {"name": "f", "image": image, "size": 7, "compute_node": self.node}
        code, words = await self.admin.fail("create_disk", spec)
        self.assertEqual((code, "at least 8 MiB" in words), (409, True))
        spec = {"name": "f", "image": image, "format": "raw", "compute_node": self.node}
        self.assertEqual((await self.admin.fail("create_disk", spec))[0], 409)

    async def test_a_vm_of_an_image(self) -> None:
        image = await self.imported()
        vm = await self.admin.do("create_vm", {"name": "web", "disks": [{"image": image}, {"size": 3}]})
        disks = (await self.admin.call("get_vm", vm))["disks"]
        self.assertEqual(await self.contents(disks[0]), WHOLE.ljust(7 * MIB, b"\0"))
        self.assertEqual([(await self.admin.call("get_disk", disk)).get("backing_image") for disk in disks], [image, None])
        both = {"name": "x", "disks": [{"image": image, "disk": disks[0]}]}
        await self.refused(-32602, self.admin.call("create_vm", both))

    async def test_files_that_are_not_images(self) -> None:
        for data, format, words in (
            (b"", "raw", "empty"),
            (qcow2(), "raw", "starts like a qcow2"),
            (WHOLE, "qcow2", "not a qcow2"),
            (qcow2(backing=4096), "qcow2", "standalone"),
            (qcow2(features=4), "qcow2", "standalone"),
            (qcow2(encrypted=2), "qcow2", "encrypted"),
            (qcow2(version=1), "qcow2", "version"),
            (qcow2(size=0), "qcow2", "size"),
            (qcow2()[:50], "qcow2", "not a qcow2"),
        ):
            await self.upload(data)
            code, said = await self.admin.fail("import_image", {"name": "os", "format": format, "upload": "up"})
            self.assertEqual((code, words in said), (409, True), said)
            self.assertEqual(await self.admin.call("list_images"), [])
            self.assertEqual(self.left(), ["uploads/1-up"])

    async def test_a_wrong_checksum(self) -> None:
        await self.upload(WHOLE)
        spec = {"name": "os", "format": "raw", "upload": "up", "sha256": digest(b"x")}
        code, words = await self.admin.fail("import_image", spec)
        self.assertEqual((code, digest(WHOLE) in words), (409, True))
        await self.admin.do("import_image", {**spec, "sha256": digest(WHOLE)})

    async def test_uploads_that_do_not_exist(self) -> None:
        code, words = await self.admin.fail("import_image", {"name": "os", "format": "raw", "upload": "up"})
        self.assertEqual((code, "no upload up" in words), (404, True))
        await self.admin.user("ann")
        await self.upload(WHOLE, user=2)
        self.assertEqual((await self.admin.fail("import_image", {"name": "os", "format": "raw", "upload": "up"}))[0], 404)

    async def test_bad_specs(self) -> None:
        for spec in (
            {"format": "raw"},
            {"upload": "up"},
            {"format": "vmdk", "upload": "up"},
            {"format": "raw", "upload": "../up"},
            {"format": "raw", "upload": "up", "url": "http://x/"},
            {"format": "raw", "upload": "up", "sha256": "X"},
            {"format": "raw", "url": "file:///x", "sha256": "0" * 64},
            {"format": "raw", "url": "http://x/y"},
        ):
            await self.refused(-32602, self.admin.call("import_image", {"name": "os", **spec}))
        spec = {"name": "os", "format": "raw", "url": "http://x/y", "sha256": "0" * 64}
        self.assertIn("--image-urls", await self.refused(403, self.admin.call("import_image", spec)))

    async def test_uploads_are_bounded(self) -> None:
        for number in range(MOST_UPLOADS):
            await self.upload(b"x", f"up{number}")
        await self.assertFailure(Deferred.fromCoroutine(self.upload(b"x", "more")), Conflict)
        await self.admin.user("ann")
        await self.upload(b"x", user=2)
        self.there.now += 10 * 366 * 86400
        await self.upload(b"x", "more")
        await self.until(lambda: self.left() == ["uploads/1-more"])


class OwnershipTests(ImageCase):
    async def test_who_sees_it(self) -> None:
        ann = await self.admin.user("ann")
        image = await self.imported()
        await self.refused(404, ann.call("get_image", image))
        self.assertEqual(await ann.call("list_images"), [])
        await self.refused(404, ann.call("create_disk", {"name": "d", "image": image}))
        await self.refused(404, ann.call("delete_image", image))

    async def test_a_public_one(self) -> None:
        ann = await self.admin.user("ann")
        await ann.call("ping")
        image = await self.imported(public=True)
        self.assertEqual([one["id"] for one in await ann.call("list_images")], [image])
        self.assertIn("image", {one["type"] for one in await ann.call("ping")})
        await ann.do("create_disk", {"name": "d", "image": image})
        await self.refused(403, ann.call("delete_image", image))
        spec = {"name": "os", "format": "raw", "upload": "up", "public": True}
        await self.refused(403, ann.call("import_image", spec))

    async def test_it_counts_as_disk_space(self) -> None:
        plan = await self.admin.do("create_resource_plan", "small", {"disk_space": 10})
        ann = await self.admin.user("ann")
        id = (await self.admin.call("list_users", {"name": "ann"}))[0]["id"]
        await self.admin.do("set_user_resource_plan", id, plan)
        await self.upload(WHOLE, user=id)
        image = await ann.do("import_image", {"name": "os", "format": "raw", "upload": "up"})
        code, words = await ann.fail("create_disk", {"name": "d", "image": image})
        self.assertEqual((code, "7 MiB used" in words), (507, True), words)
        await self.assertFailure(Deferred.fromCoroutine(self.upload(WHOLE, user=id)), QuotaExceeded)
        await ann.do("delete_image", image)
        await self.upload(WHOLE, user=id)
        await ann.do("import_image", {"name": "more", "format": "raw", "upload": "up"})

    async def test_names(self) -> None:
        await self.imported()
        await self.refused(409, self.admin.call("import_image", {"name": "os", "format": "raw", "upload": "up"}))


class DiskTests(ImageCase):
    async def test_an_image_of_a_disk(self) -> None:
        disk = await self.admin.do("create_disk", {"name": "d", "image": await self.imported(), "compute_node": self.node})
        image = await self.admin.do("create_image", disk, "copy")
        record = await self.admin.call("get_image", image)
        self.assertEqual((record["size"], record["sha256"]), (7, digest(WHOLE.ljust(7 * MIB, b"\0"))))
        again = await self.admin.do("create_disk", {"name": "e", "image": image, "compute_node": self.node})
        self.assertEqual(await self.contents(again), await self.contents(disk))

    async def test_a_running_vms(self) -> None:
        vm = await self.admin.do("create_vm", {"name": "web", "disks": [{"size": 1, "format": "raw"}]})
        (disk,) = (await self.admin.call("get_vm", vm))["disks"]
        await self.admin.do("start_vm", vm)
        self.assertEqual((await self.admin.fail("create_image", disk, "copy"))[0], 409)
        await self.admin.do("stop_vm", vm)
        await self.admin.do("create_image", disk, "copy")

    async def test_a_node_that_fails(self) -> None:
        image = await self.imported()
        node = await self.admin.node("bad", fail=["write_volume", "read_volume"])
        code, _ = await self.admin.fail("create_disk", {"name": "d", "image": image, "compute_node": node})
        self.assertEqual((code, await self.admin.call("list_disks")), (503, []))
        disk = await self.admin.do("create_disk", {"name": "d", "size": 1, "format": "raw", "compute_node": node})
        self.assertEqual((await self.admin.fail("create_image", disk, "copy"))[0], 503)
        self.assertEqual(len(await self.admin.call("list_images")), 1)
        self.assertEqual(self.left(), [f"images/{image}.img"])

    async def test_cancelled(self) -> None:
        image = await self.imported()
        node = await self.admin.node("slow", hang=["write_volume"])
        await self.admin.call("create_disk", {"name": "d", "image": image, "compute_node": node})
        ec = await self.admin.call("commit_tasks")
        while any(await self.admin.call("get_task_state", ec)):
            await self.admin.call("cancel_tasks", ec)
            await self.there.pass_time(0.25)
        self.assertIn("cancelled", (await self.admin.call("get_errors", ec))[0])
        self.assertEqual(await self.admin.call("list_disks"), [])

    async def test_a_plan(self) -> None:
        image = await self.imported()
        disk = await self.admin.do("create_disk", {"name": "e", "size": 1, "format": "raw"})
        await self.upload(WHOLE)
        await self.admin.call("create_disk", {"name": "f", "image": image})
        await self.admin.call("create_vm", {"name": "w", "disks": [{"image": image}]})
        await self.admin.call("create_image", disk, "copy")
        await self.admin.call("import_image", {"name": "more", "format": "raw", "upload": "up"})
        planned = await self.admin.call("plan_tasks")
        self.assertEqual([(one["ok"], one["error"]) for one in planned], [(True, "")] * 4)
        self.assertEqual(self.left(), [f"images/{image}.img", "uploads/1-up"])

    async def test_in_one_batch(self) -> None:
        await self.upload(WHOLE)
        image = await self.admin.call("import_image", {"name": "os", "format": "raw", "upload": "up"})
        await self.admin.call("create_disk", {"name": "d", "image": image})
        ec = await self.admin.commit()
        self.assertEqual(await self.admin.call("get_errors", ec), ["", ""])

    async def test_a_restart(self) -> None:
        image = await self.imported()
        state = self.directory / "state" / "images"
        (state / "99.img").write_bytes(b"nobody's")
        (state / f"{image + 1}.part").write_bytes(b"half")
        self.there = await self.restart(self.there)
        self.admin = await self.there.login()
        self.assertEqual(self.left(), [f"images/{image}.img"])
        aside = state.parent / "set-aside"
        self.assertEqual(sorted(path.name for path in aside.iterdir()), ["images-2.part", "images-99.img"])
        disk = await self.admin.do("create_disk", {"name": "d", "image": image, "compute_node": self.node})
        self.assertEqual(await self.contents(disk), WHOLE.ljust(7 * MIB, b"\0"))


class _File(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def render_GET(self, request: Any) -> Any:
        self.asked.append(request.path)
        if request.path == b"/to/os":
            return WHOLE
        if request.path == b"/to/chunks":
            request.write(WHOLE[:100])
            request.write(WHOLE[100:])
            request.finish()
            return NOT_DONE_YET
        if request.path == b"/to/half":
            request.setHeader(b"content-length", b"%d" % len(WHOLE))
            request.write(WHOLE[:1000])
            request.channel.transport.loseConnection()
            return NOT_DONE_YET
        if request.path == b"/to/silent":
            request.write(WHOLE[:100])
            request.notifyFinish().addErrback(lambda failure: None)
            return NOT_DONE_YET
        if request.path in (b"/to/moved", b"/to/outside", b"/to/circle"):
            place = {b"/to/moved": b"/to/os", b"/to/outside": b"/secret", b"/to/circle": b"/to/circle"}[request.path]
            request.redirect(b"http://127.0.0.1:%d%s" % (request.getHost().port, place))
            return b""
        request.setResponseCode(404)
        return b""


class UrlTests(ImageCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.file = _File()
        self.port = reactor.listenTCP(0, Site(self.file), interface="127.0.0.1")  # type: ignore[arg-type]
        self.addCleanup(self.port.stopListening)
        self.base = f"http://127.0.0.1:{self.port.getHost().port}/to/"  # type: ignore[attr-defined]
        # The clock runs faster than bytes arrive.
        self.patch(image_fetch, "SILENCE", 1e9)
        self.patch(image_fetch, "HEAD_TIME", 1e9)
        await super().setUp()

    def options(self) -> tuple[str, ...]:
        return ("--image-urls", f"https://images.example/,{self.base}", "--max-image", "8")

    def spec(self, path: str, **more: Any) -> dict[str, Any]:
        return {"name": "os", "format": "raw", "url": self.base + path, "sha256": digest(WHOLE), **more}

    async def test_fetched(self) -> None:
        for path in ("os", "chunks", "moved"):
            image = await self.admin.do("import_image", self.spec(path, name=path))
            self.assertEqual((await self.admin.call("get_image", image))["sha256"], digest(WHOLE))

    async def test_a_plan(self) -> None:
        """A rehearsal contacts no server and moves no bytes, whatever their number."""
        disk = await self.admin.do("create_disk", {"name": "huge", "size": 2**24, "format": "raw"})
        self.files.most = 2**60
        await self.admin.call("import_image", self.spec("os"))
        await self.admin.call("create_image", disk, "copy")
        planned = await self.admin.call("plan_tasks")
        self.assertEqual([(one["ok"], one["error"]) for one in planned], [(True, "")] * 2)
        self.assertEqual((self.file.asked, self.left()), ([], []))

    async def test_not_fetched(self) -> None:
        for path, code, words in (
            ("none", 503, "404"),
            ("outside", 403, "/secret"),
            ("circle", 503, "redirects"),
            ("half", 503, "broke"),
        ):
            found = await self.admin.fail("import_image", self.spec(path))
            self.assertEqual((found[0], words in found[1]), (code, True), found)
            self.assertEqual((await self.admin.call("list_images"), self.left()), ([], []))
        self.assertNotIn(b"/secret", self.file.asked)

    async def test_urls_that_are_not_allowed(self) -> None:
        for url in ("http://127.0.0.1:1/to/os", self.base.replace("/to/", "/secret"), "https://images.example.evil/os"):
            await self.refused(403, self.admin.call("import_image", {**self.spec("os"), "url": url}))

    async def test_too_large(self) -> None:
        self.files.most = len(WHOLE) - 1
        self.assertEqual((await self.admin.fail("import_image", self.spec("os")))[0], 409)
        self.assertEqual(self.left(), [])

    async def test_silence(self) -> None:
        self.patch(image_fetch, "SILENCE", 60.0)
        self.assertIn("64 KiB arrived within 60 s", (await self.admin.fail("import_image", self.spec("silent")))[1])
        self.assertEqual(self.left(), [])

    async def test_a_server_that_is_down(self) -> None:
        await self.port.stopListening()  # type: ignore[misc]
        self.assertEqual((await self.admin.fail("import_image", self.spec("os")))[0], 503)


class RebuildTests(ImageCase):
    async def vm(self, **disk: Any) -> int:
        return await self.admin.do(
            "create_vm", {"name": "web", "disks": [{"size": 3, "format": "raw", **disk}, {"size": 2}]}
        )

    async def test_rebuilt(self) -> None:
        image, vm = await self.imported(), await self.vm()
        before = await self.admin.call("get_vm", vm)
        await self.admin.do("rebuild_vm", vm, image)
        self.assertEqual(await self.admin.call("get_vm", vm), before)
        disk = await self.admin.call("get_disk", before["disks"][0])
        self.assertEqual((disk["size"], disk["backing_image"], disk["target"]), (7, image, "vda"))
        self.assertEqual(await self.contents(before["disks"][0]), WHOLE.ljust(7 * MIB, b"\0"))
        connection: Any = await self.there.server.dispatcher._services.resources.nodes.connection(self.node, IImages)
        info = await connection.get_domain(before["uuid"])
        self.assertEqual(info.disks[0].path, disk["path"])
        self.assertEqual(len(await connection.list_volumes("default")), 2)
        await self.admin.do("start_vm", vm)

    async def test_a_larger_disk_stays(self) -> None:
        image, vm = await self.imported(), await self.vm(size=20)
        await self.admin.do("rebuild_vm", vm, image)
        (disk, _) = (await self.admin.call("get_vm", vm))["disks"]
        self.assertEqual(await self.contents(disk), WHOLE.ljust(20 * MIB, b"\0"))

    async def test_refusals(self) -> None:
        image, vm = await self.imported(), await self.vm()
        bare = await self.admin.do("create_vm", {"name": "bare"})
        self.assertEqual((await self.admin.fail("rebuild_vm", bare, image))[0], 409)
        await self.refused(404, self.admin.call("rebuild_vm", vm, 99))
        await self.admin.do("start_vm", vm)
        self.assertIn("stop it first", (await self.admin.fail("rebuild_vm", vm, image))[1])
        await self.admin.do("stop_vm", vm)
        kept = await self.admin.do("create_vm", {"name": "kept", "disks": [{"size": 3}]})
        await self.admin.do("create_vm_snapshot", kept, "before")
        self.assertIn("snapshot", (await self.admin.fail("rebuild_vm", kept, image))[1])

    async def test_a_failed_rebuild_changes_nothing(self) -> None:
        image = await self.imported()
        node = await self.admin.node("bad", fail=["write_volume"])
        vm = await self.admin.do("create_vm", {"name": "w", "compute_node": node, "disks": [{"size": 9, "format": "raw"}]})
        before = await self.admin.call("list_disks")
        self.assertEqual((await self.admin.fail("rebuild_vm", vm, image))[0], 503)
        self.assertEqual(await self.admin.call("list_disks"), before)
        connection: Any = await self.there.server.dispatcher._services.resources.nodes.connection(node, IImages)
        self.assertEqual(len(await connection.list_volumes("default")), 1)
