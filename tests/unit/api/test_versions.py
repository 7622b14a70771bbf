"""Every object has a version, which increases with each change of the object."""

from __future__ import annotations

from typing import Any

from fluidvm.engine.context import Context
from fluidvm.model.object_fields import wire_fields
from fluidvm.model.objects import OBJECT_TYPES
from fluidvm.store import objects as stored
from fluidvm.store.objects import Update
from tests.support import PASSWORD, ServerCase

Change = tuple[Any, ...]
"""A task's name and its arguments."""


class VersionTests(ServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.there = self.serve("--disk-reserve", "0")
        self.admin = await self.there.login()
        self.node = await self.admin.node()

    async def version(self, type_name: str, id: int) -> int:
        """The version that C{get_*} and C{list_*} return; both return only declared fields."""
        one = await self.admin.call(f"get_{type_name}", id)
        declared = Context.FIELDS if type_name == "execution_context" else wire_fields(OBJECT_TYPES[type_name])
        self.assertEqual({key: type(value) for key, value in one.items()}, {key: declared[key] for key in one})
        wanted = {"id": id} if type_name == "execution_context" else {"id": id, "version": one["version"]}
        listed = await self.admin.call(f"list_{type_name}s", wanted | {"fields": ["version"]})
        self.assertEqual(listed, [{"version": one["version"]}])
        version: int = one["version"]
        return version

    async def grows(self, type_name: str, id: int, *changes: Change) -> None:
        """Each change increases the version; changes of other objects and a restart don't."""
        version = await self.version(type_name, id)
        for change in changes:
            await self.admin.do(*change)
            before, version = version, await self.version(type_name, id)
            self.assertGreater(version, before, change)
        await self.admin.do("create_user", "somebody-else", PASSWORD, {})
        self.assertEqual(await self.version(type_name, id), version)
        self.admin = await (await self.restart(self.there)).login()
        self.assertEqual(await self.version(type_name, id), version)

    async def test_a_vm(self) -> None:
        vm = await self.admin.do("create_vm", {"name": "web", "disks": [{"size": 1}]})
        disk = await self.admin.do("create_disk", {"name": "data", "size": 1})
        owner = await self.admin.do("create_user", "alice", PASSWORD, {})
        await self.grows(
            "vm",
            vm,
            ("set_vm_memory", vm, 512),
            ("set_vm_vcpus", vm, 2),
            ("set_vm_name", vm, "site"),
            ("set_vm_details", vm, {"tags": ["a"]}),
            ("set_vm_autostart", vm, True),
            ("attach_disk", vm, disk),
            ("detach_disk", vm, disk),
            ("create_vm_snapshot", vm, "one"),
            ("start_vm", vm),
            ("set_vm_owner", vm, owner),
        )

    async def test_a_disk(self) -> None:
        disk = await self.admin.do("create_disk", {"name": "data", "size": 1})
        vm = await self.admin.do("create_vm", {"name": "web"})
        owner = await self.admin.do("create_user", "alice", PASSWORD, {})
        await self.grows(
            "disk",
            disk,
            ("resize_disk", disk, 2),
            ("set_disk_name", disk, "files"),
            ("attach_disk", vm, disk),
            ("detach_disk", vm, disk),
            ("set_disk_owner", disk, owner),
        )

    async def test_a_user(self) -> None:
        plan = await self.admin.do("create_resource_plan", "small", {"vms": 1})
        user = await self.admin.do("create_user", "alice", PASSWORD, {})
        self.assertEqual(await self.version("user", user), 1)
        await self.there.login("alice")
        self.assertEqual(await self.version("user", user), 1, "a login doesn't count as a change")
        await self.grows(
            "user",
            user,
            ("set_user_role", user, "auditor"),
            ("set_user_resource_plan", user, plan),
            ("set_user_details", user, {"email": "a@example.org"}),
            ("set_user_enabled", user, False),
            ("set_user_password", user, PASSWORD + "!"),
        )
        self.assertEqual(await self.version("user", user), 6)

    async def test_a_resource_plan(self) -> None:
        plan = await self.admin.do("create_resource_plan", "small", {"vms": 1})
        self.assertEqual(await self.version("resource_plan", plan), 1)
        await self.grows(
            "resource_plan", plan, ("set_resource_plan", plan, {"vms": 2}), ("rename_resource_plan", plan, "large")
        )
        self.assertEqual(await self.version("resource_plan", plan), 3)

    async def test_a_compute_node(self) -> None:
        before = await self.version("compute_node", self.node)
        for change in (
            ("set_compute_node", self.node, {"labels": ["fast"]}),
            ("set_compute_node_mode", self.node, "cordoned"),
        ):
            await self.admin.do(*change)
            after = await self.version("compute_node", self.node)
            self.assertGreater(after, before, change)
            before = after
        # Its state isn't stored, but the version is.
        again = await (await self.restart(self.there)).login()
        await again.do("refresh_compute_node", self.node)
        self.admin = again
        self.assertEqual((await again.call("get_compute_node", self.node))["state"], "online")
        self.assertGreater(await self.version("compute_node", self.node), before)

    async def test_an_image(self) -> None:
        disk = await self.admin.do("create_disk", {"name": "data", "size": 1, "format": "raw"})
        image = await self.admin.call("create_image", disk, "os")
        await self.admin.commit()
        version = await self.version("image", image)
        self.assertGreater(version, 1, "it was created, then ready")
        await self.grows("image", image)

    async def test_an_execution_context(self) -> None:
        vm = await self.admin.do("create_vm", {"name": "web"})
        for memory in (256, 512):
            await self.admin.call("set_vm_memory", vm, memory)
        ec = await self.admin.call("commit_tasks")
        seen = [(await self.admin.call("get_execution_context", ec))["version"]]
        await self.admin.finish(ec)
        seen.append((await self.admin.call("list_execution_contexts"))[0]["version"])
        self.assertEqual(seen, sorted(set(seen)))
        await self.grows("execution_context", ec)

    async def test_a_failed_task_does_not_change_it(self) -> None:
        vm = await self.admin.do("create_vm", {"name": "web"})
        before = await self.version("vm", vm)
        write = stored.write

        def broken(connection: Any, changes: Any) -> Any:
            write(connection, changes)
            raise ZeroDivisionError

        self.patch(stored, "write", broken)
        failed = self.there.server.inventory.commit([Update("vm", vm, {"memory": 1024})])
        await self.assertFailure(failed, ZeroDivisionError)
        self.patch(stored, "write", write)
        await self.grows("vm", vm)
        self.assertEqual(await self.version("vm", vm), before)
