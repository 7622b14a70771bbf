"""Whether a download can be resumed with consistent content: ETag and If-Range."""

from __future__ import annotations

from fluidvm.access import disk_tags
from fluidvm.images.files import MIB
from fluidvm.model.objects import vm_state
from fluidvm.store.objects import Update
from tests.unit.access.test_transfers import TransferCase
from tests.unit.api.storage.test_images import WHOLE

SENT = WHOLE.ljust(7 * MIB, b"\0")


class DiskTagTests(TransferCase):
    async def tag(self, disk: int) -> str:
        code, headers, _ = await self.ask("HEAD", f"/disks/{disk}/content")
        self.assertEqual(code, 200)
        (tag,) = headers.getRawHeaders("etag")
        return str(tag)

    async def rest(self, disk: int, tag: str) -> int:
        """Request the content after the first MiB, if the disk is unchanged. @return: the status."""
        code, headers, body = await self.ask("GET", f"/disks/{disk}/content", Range=f"bytes={MIB}-", If_Range=tag)
        self.assertEqual(body, {206: SENT[MIB:], 200: SENT}[code])
        self.assertEqual(headers.hasHeader("content-range"), code == 206)
        return int(code)

    async def test_an_unchanged_disk_keeps_its_tag(self) -> None:
        disk = await self.disk()
        tag = await self.tag(disk)
        self.assertRegex(tag, '^"[0-9a-f]{32}"$')
        self.assertEqual(await self.rest(disk, tag), 206)
        await self.admin.do("create_disk", {"name": "other", "size": 5})
        self.assertEqual(await self.rest(disk, tag), 206)
        self.assertEqual(await self.tag(disk), tag)
        for other in ('"x"', f"W/{tag}", "Tue, 24 Nov 2026 20:00:00 GMT", tag.strip('"'), "*"):
            self.assertEqual(await self.rest(disk, other), 200, other)

    async def test_a_task_changes_the_tag(self) -> None:
        disk = await self.disk()
        vm = await self.admin.do("create_vm", {"name": "web", "compute_node": self.node, "disks": [{"disk": disk}]})
        for method, *arguments in (("set_disk_name", disk, "d2"), ("set_vm_memory", vm, 64), ("detach_disk", vm, disk)):
            tag = await self.tag(disk)
            self.assertEqual(await self.rest(disk, tag), 206)
            await self.admin.do(str(method), *arguments)
            self.assertEqual(await self.rest(disk, tag), 200, method)
            self.assertNotEqual(await self.tag(disk), tag)

    async def test_a_vm_that_ran_without_the_server_changes_the_tag(self) -> None:
        disk = await self.disk()
        vm = await self.admin.do("create_vm", {"name": "web", "compute_node": self.node, "disks": [{"disk": disk}]})
        tag = await self.tag(disk)
        for state in ("running", "stopped"):
            self.assertEqual(await self.rest(disk, tag), 206)
            await self.there.server.inventory.commit([Update("vm", vm, {"description": "x"})])
            self.assertEqual(await self.rest(disk, tag), 206)
            await self.there.server.inventory.commit([Update("vm", vm, vm_state("running"))])
            await self.there.server.inventory.commit([Update("vm", vm, vm_state(state))])
            await self.there.server.inventory.commit([Update("vm", vm, vm_state("stopped"))])
            self.assertEqual(await self.rest(disk, tag), 200)
            tag = await self.tag(disk)

    async def test_the_number_of_tags_is_limited(self) -> None:
        self.patch(disk_tags, "MOST", 2)
        disks = [await self.admin.do("create_disk", {"name": f"d{number}", "size": 1}) for number in range(3)]
        tags = [await self.tag(disk) for disk in disks]
        self.assertEqual(len(set(tags)), 3)
        self.assertEqual([await self.tag(disk) for disk in disks[1:]], tags[1:])
        self.assertNotEqual(await self.tag(disks[0]), tags[0])
        self.assertEqual(len(self.there.server._engine.claims._watches), 2)
        for disk in disks:
            await self.admin.do("delete_disk", disk)
        self.assertEqual(self.there.server._engine.claims._watches, {})
