from __future__ import annotations

from tests.support import ServerCase
from tests.unit.api.nodes.test_nodes import simulated


class OwnershipTests(ServerCase):
    async def test_a_vm_changes_its_owner_with_its_disks(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        alice, bob = await admin.user("alice"), await admin.user("bob")
        vm = await alice.do("create_vm", {"name": "web", "disks": [{"size": 3}]})
        for client in (alice, bob, admin):
            await client.call("ping")
        await admin.do("set_vm_owner", vm, 3)
        told = [(one["type"], one["id"], one["change"]) for one in await alice.call("ping")]
        self.assertEqual(told, [("vm", vm, "deleted"), ("disk", 1, "deleted")])
        told = [(one["type"], one["id"], one["change"]) for one in await bob.call("ping")]
        self.assertEqual(told, [("vm", vm, "created"), ("disk", 1, "created")])
        changed = [(one["type"], one["change"]) for one in await admin.call("ping") if one["type"] in ("vm", "disk")]
        self.assertEqual(changed, [("vm", "updated"), ("disk", "updated")])
        await self.refused(404, alice.call("get_vm", vm))
        self.assertEqual((await bob.call("get_vm", vm))["disks"], [1])
        self.assertEqual((await admin.call("get_user_usage", 2))["vms"]["used"], 0)
        self.assertEqual((await admin.call("get_user_usage", 3))["disk_space"]["used"], 3)
        await self.refused(403, bob.call("set_vm_owner", vm, 2))

    async def test_within_the_new_owners_plan_and_names(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        alice, bob = await admin.user("alice"), await admin.user("bob")
        plan = await admin.do("create_resource_plan", "small", {"vms": 1, "vm_memory": 1000})
        await admin.do("set_user_resource_plan", 3, plan)
        big = await alice.do("create_vm", {"name": "big", "memory": 1001})
        self.assertEqual((await admin.fail("set_vm_owner", big, 3))[0], 507)
        same = await alice.do("create_vm", {"name": "web"})
        await bob.do("create_vm", {"name": "web"})
        self.assertEqual((await admin.fail("set_vm_owner", same, 3))[0], 409)
        await alice.do("set_vm_name", same, "other")
        code, words = await admin.fail("set_vm_owner", same, 3)
        self.assertEqual((code, "vms" in words), (507, True))
        await admin.do("set_vm_owner", big, 1)

    async def test_queued_tasks_on_an_object_with_a_new_owner(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        alice, _ = await admin.user("alice"), await admin.user("bob")
        vm = await alice.do("create_vm", {"name": "web"})
        await alice.call("start_vm", vm)
        await admin.do("set_vm_owner", vm, 3)
        ec = await alice.commit()
        self.assertEqual((await alice.call("get_execution_context", ec))["tasks"][0]["code"], 404)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")

    async def test_disks(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        alice = await admin.user("alice")
        vm = await alice.do("create_vm", {"name": "web", "disks": [{"size": 3}]})
        self.assertEqual((await admin.fail("set_disk_owner", 1, 1))[0], 409)
        await alice.do("detach_disk", vm, 1)
        await admin.do("set_disk_owner", 1, 1)
        code, words = await admin.fail("attach_disk", vm, 1)
        self.assertEqual((code, "same owner" in words), (409, True))
        await admin.do("set_disk_name", 1, "data")
        self.assertEqual((await admin.call("get_disk", 1))["name"], "data")
        await admin.do("create_disk", {"name": "more", "size": 1})
        await self.refused(409, admin.call("set_disk_name", 1, "more"))


class DetailsTests(ServerCase):
    async def test_renamed_and_its_domain_is_the_same(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "web"})
        before = [domain.name for domain in simulated(running, node).domains()]
        await admin.do("start_vm", vm)
        await admin.do("set_vm_name", vm, "www")
        await admin.do("create_vm", {"name": "web"})
        await self.refused(409, admin.call("set_vm_name", vm, "web"))
        await admin.do("stop_vm", vm)
        await admin.do("set_vm_autostart", vm, True)
        self.assertEqual((await admin.call("get_vm", vm))["name"], "www")
        self.assertEqual(simulated(running, node).domain((await admin.call("get_vm", vm))["uuid"]).name, before[0])

    async def test_details(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "web", "description": "old", "tags": ["a"]})
        await admin.do("set_vm_details", vm, {"tags": ["b", "c"]})
        shown = await admin.call("get_vm", vm)
        self.assertEqual((shown["description"], shown["tags"]), ("old", ["b", "c"]))
        await self.refused(-32602, admin.call("set_vm_details", vm, {"tags": ["b", "b"]}))

    async def test_autostart_and_boot_need_a_stopped_vm(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("set_vm_boot", vm, {"order": ["network", "disk"]})
        await admin.do("set_vm_autostart", vm, True)
        shown = await admin.call("get_vm", vm)
        self.assertEqual((shown["boot"], shown["autostart"]), ({"order": ["network", "disk"]}, True))
        self.assertTrue(simulated(running, node).domain(shown["uuid"]).autostart)
        await admin.do("start_vm", vm)
        for method, value in (("set_vm_autostart", False), ("set_vm_boot", {})):
            code, words = await admin.fail(method, vm, value)
            self.assertEqual((code, "stop it first" in words), (409, True))
        await self.refused(-32602, admin.call("set_vm_boot", vm, {"initrd": "/boot/x"}))

    async def test_a_kernel_of_a_plain_user(self) -> None:
        admin = await self.serve().login()
        await admin.node(boot_dirs=["/srv/kernels"])
        alice = await admin.user("alice")
        vm = await alice.do("create_vm", {"name": "web"})
        self.assertEqual((await alice.fail("set_vm_boot", vm, {"kernel": "/etc/shadow"}))[0], 403)
        await alice.do("set_vm_boot", vm, {"kernel": "/srv/kernels/vmlinuz"})
