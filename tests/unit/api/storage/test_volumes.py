from __future__ import annotations

from tests.support import ServerCase
from tests.unit.api.nodes.test_nodes import simulated


class VolumeTests(ServerCase):
    async def test_made_larger(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        disk = await admin.do("create_disk", {"name": "data", "size": 10})
        await admin.do("resize_disk", disk, 20)
        vm = await admin.do("create_vm", {"name": "one", "disks": [{"disk": disk}]})
        await admin.do("start_vm", vm)
        await admin.do("resize_disk", disk, 30)
        self.assertEqual((await admin.call("get_disk", disk))["size"], 30)
        self.assertEqual([volume.size for volume in simulated(running, node).all_volumes()], [30])
        code, words = await admin.fail("resize_disk", disk, 29)
        self.assertEqual((code, "smaller" in words), (409, True))

    async def test_within_the_plan(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        plan = await admin.do("create_resource_plan", "small", {"disk_space": 50, "vm_disk": 30, "disks": 3})
        alice = await admin.user("alice")
        await admin.do("set_user_resource_plan", 2, plan)
        vm = await alice.do("create_vm", {"name": "one", "disks": [{"size": 20}]})
        self.assertIn("vm_disk", (await alice.fail("resize_disk", 1, 31))[1])
        await alice.do("create_disk", {"name": "data", "size": 25})
        self.assertIn("disk_space", (await alice.fail("resize_disk", 2, 31))[1])
        code, words = await alice.fail("clone_disk", 1, "copy")
        self.assertEqual((code, "disk_space" in words), (507, True))
        await alice.do("delete_vm", vm)
        copy = await alice.do("clone_disk", 2, "copy")
        self.assertEqual((await alice.call("get_user_usage", 2))["disk_space"]["used"], 50)
        await alice.do("delete_disk", copy)

    async def test_copied(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        alice = await admin.user("alice")
        vm = await alice.do("create_vm", {"name": "one", "disks": [{"size": 5, "format": "raw"}]})
        copy = await alice.do("clone_disk", 1, "copy")
        shown = await alice.call("get_disk", copy)
        self.assertEqual((shown["size"], shown["format"], shown["state"], shown["owner"]), (5, "raw", "ready", 2))
        self.assertNotIn("vm", shown)
        self.assertEqual(len(simulated(running, node).all_volumes()), 2)
        await self.refused(409, alice.call("clone_disk", 1, "copy"))
        await alice.do("start_vm", vm)
        self.assertEqual((await alice.fail("clone_disk", 1, "other"))[0], 409)

    async def test_a_copy_that_fails_leaves_nothing(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node(fail=["clone_volume"])
        await admin.do("create_disk", {"name": "data", "size": 10})
        self.assertEqual((await admin.fail("clone_disk", 1, "copy"))[0], 503)
        self.assertEqual(len(await admin.call("list_disks")), 1)
        self.assertEqual(len(simulated(running, node).all_volumes()), 1)

    async def test_an_interrupted_copy_is_started_again(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node(hang=["clone_volume"])
        await admin.do("create_disk", {"name": "data", "size": 10})
        copy = await admin.call("clone_disk", 1, "copy")
        ec = await admin.call("commit_tasks")
        for _ in range(5):
            await running.pass_time(0.1)
        self.assertEqual((await admin.call("get_disk", copy))["state"], "creating")
        running = await self.restart(running)
        running.server._nodes._watches[node]._options = {}
        await running.server._nodes.refresh(node)
        faults = running.server._nodes._watches[node].connection._connection._faults
        faults._hang = frozenset()
        admin = await running.login()
        await admin.call("cancel_tasks", ec)
        await admin.finish(ec)
        self.assertEqual(len(await admin.call("list_disks")), len(simulated(running, node).all_volumes()))

    async def test_pools(self) -> None:
        admin = await self.serve().login()
        node = await admin.node(pool_size=100)
        await admin.do("create_disk", {"name": "data", "size": 10})
        self.assertEqual(await admin.call("list_storage_pools", node), [{"name": "default", "capacity": 100, "free": 90}])
        user = await admin.user("alice")
        await self.refused(403, user.call("list_storage_pools", node))

    async def test_planned(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        disk = await admin.call("create_disk", {"name": "data", "size": 10})
        await admin.call("resize_disk", disk, 5)
        await admin.call("resize_disk", disk, 50)
        await admin.call("clone_disk", disk, "copy")
        self.assertEqual([line["code"] for line in await admin.call("plan_tasks")], [0, 409, 0, 0])


class CloneTests(ServerCase):
    async def test_a_vm_with_its_disks(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        alice = await admin.user("alice")
        spec = {"name": "one", "memory": 64, "disks": [{"size": 5}, {"size": 6, "format": "raw"}], "tags": ["a"]}
        vm = await alice.do("create_vm", spec)
        clone = await alice.do("clone_vm", vm, "two")
        one, two = await alice.call("get_vm", vm), await alice.call("get_vm", clone)
        self.assertEqual((two["name"], two["state"], two["memory"], two["tags"]), ("two", "stopped", 64, ["a"]))
        self.assertNotEqual(one["uuid"], two["uuid"])
        sizes = [(await alice.call("get_disk", disk))["size"] for disk in two["disks"]]
        self.assertEqual((sizes, set(one["disks"]) & set(two["disks"])), ([5, 6], set()))
        host = simulated(running, node)
        self.assertEqual((len(host.domains()), len(host.all_volumes())), (2, 4))
        self.assertEqual(len(host.domain(two["uuid"]).disks), 2)
        await alice.do("delete_vm", vm)
        await alice.do("start_vm", clone)
        self.assertEqual((await alice.fail("clone_vm", clone, "three"))[0], 409)

    async def test_one_that_fails_leaves_nothing(self) -> None:
        for verb in ("clone_volume", "define_domain"):
            running = self.serve()
            admin = await running.login()
            node = await admin.node(f"node-{verb}".replace("_", "-"))
            vm = await admin.do("create_vm", {"name": f"one-{verb}", "compute_node": node, "disks": [{"size": 5}]})
            running.server._nodes._watches[node].connection._connection._faults._fail = frozenset([verb])
            self.assertEqual((await admin.fail("clone_vm", vm, f"two-{verb}"))[0], 503)
            host = simulated(running, node)
            self.assertEqual((len(host.domains()), len(host.all_volumes())), (1, 1))
            self.assertEqual((await admin.call("get_user_usage", 1))["disks"]["used"], len(await admin.call("list_disks")))
            await running.stop()
            self.running.remove(running)

    async def test_within_the_plan(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        plan = await admin.do("create_resource_plan", "small", {"vms": 2, "disks": 2})
        alice = await admin.user("alice")
        await admin.do("set_user_resource_plan", 2, plan)
        vm = await alice.do("create_vm", {"name": "one", "disks": [{"size": 1}]})
        await alice.call("clone_vm", vm, "two")
        await alice.call("clone_vm", vm, "three")
        self.assertEqual([line["code"] for line in await alice.call("plan_tasks")], [0, 507])
        ec = await alice.commit()
        self.assertEqual([task["code"] for task in (await alice.call("get_execution_context", ec))["tasks"]], [0, 507])
