from __future__ import annotations

from typing import Any

from tests.support import Client, Running, ServerCase, simulated

COPY = {"copy_storage": True}


class MigrationTests(ServerCase):
    async def two(self, running: Running, **options: Any) -> tuple[Client, int, int]:
        admin = await running.login()
        return admin, await admin.node("one", **options), await admin.node("two", **options)

    async def held(self, running: Running, node: int) -> tuple[list[str], list[str]]:
        """The UUIDs of a node's domains, and the names of its volumes."""
        host = await simulated(running, node)
        return [domain.uuid for domain in host.domains()], [volume.name for volume in host.all_volumes()]

    async def assert_on(self, running: Running, admin: Client, vm: int, node: int, other: int) -> None:
        """Check that exactly one node has the VM and its disks, and that the records agree."""
        record = await admin.call("get_vm", vm)
        disks = [await admin.call("get_disk", disk) for disk in record["disks"]]
        self.assertEqual([record["compute_node"], *(disk["compute_node"] for disk in disks)], [node] * (1 + len(disks)))
        there, volumes = await self.held(running, node)
        self.assertEqual(there, [record["uuid"]])
        self.assertEqual(sorted(f"/simulated/default/{name}" for name in volumes), sorted(disk["path"] for disk in disks))
        self.assertEqual(await self.held(running, other), ([], []))

    async def test_a_stopped_vm_with_disks(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running)
        vm = await admin.do("create_vm", {"name": "web", "compute_node": one, "disks": [{"size": 8}, {"size": 4}]})
        before = await admin.call("get_user_usage", 1)
        self.assertIn("copy_storage", (await admin.fail("migrate_vm", vm, two))[1])
        await admin.do("migrate_vm", vm, two, COPY)
        await self.assert_on(running, admin, vm, two, one)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")
        self.assertEqual(await admin.call("get_user_usage", 1), before)
        await admin.do("migrate_vm", vm, two, COPY)
        await admin.do("start_vm", vm)
        nodes = [await admin.call("get_compute_node", node) for node in (one, two)]
        self.assertEqual([(node["vms"], node["memory_used"]) for node in nodes], [(0, 0), (1, 512)])
        await admin.do("remove_compute_node", one)

    async def test_live(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running)
        vm = await admin.do("create_vm", {"name": "web", "compute_node": one, "disks": [{"size": 8}]})
        await admin.do("start_vm", vm)
        code, words = await admin.fail("migrate_vm", vm, two, COPY)
        self.assertEqual((code, "live" in words), (409, True))
        await admin.do("migrate_vm", vm, two, {**COPY, "live": True})
        await self.assert_on(running, admin, vm, two, one)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")

    async def test_refused(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running)
        vm = await admin.do("create_vm", {"name": "web", "compute_node": one})
        await admin.do("set_compute_node_mode", two, "cordoned")
        self.assertEqual(await admin.fail("migrate_vm", vm, two), (409, "Compute node two is in mode cordoned."))
        await admin.do("set_compute_node_mode", two, "active")
        await admin.do("start_vm", vm)
        await admin.do("save_vm", vm)
        self.assertIn("is saved", (await admin.fail("migrate_vm", vm, two))[1])
        self.assertEqual((await admin.call("get_vm", vm))["compute_node"], one)

    async def test_failed(self) -> None:
        running = self.serve()
        admin = await running.login()
        one, two = await admin.node("one", fail=["migrate"]), await admin.node("two")
        vm = await admin.do("create_vm", {"name": "web", "compute_node": one, "disks": [{"size": 8}]})
        self.assertIn("configured to fail", (await admin.fail("migrate_vm", vm, two, COPY))[1])
        await self.assert_on(running, admin, vm, one, two)

    async def test_no_room_there(self) -> None:
        running = self.serve()
        admin = await running.login()
        one, two = await admin.node("one"), await admin.node("two", pool_size=10)
        vm = await admin.do("create_vm", {"name": "web", "compute_node": one, "disks": [{"size": 8}, {"size": 4}]})
        self.assertIn("no space", (await admin.fail("migrate_vm", vm, two, COPY))[1])
        await self.assert_on(running, admin, vm, one, two)

    async def test_cancelled(self) -> None:
        running = self.serve()
        admin = await running.login()
        one, two = await admin.node("one", hang=["migrate"]), await admin.node("two")
        vm = await admin.do("create_vm", {"name": "web", "compute_node": one, "disks": [{"size": 8}]})
        await admin.do("start_vm", vm)
        await admin.call("migrate_vm", vm, two, {**COPY, "live": True})
        ec = await admin.call("commit_tasks")
        host = await simulated(running, two)
        while not host.all_volumes():
            await running.pass_time(0.1)
        await running.pass_time(0.1)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "migrating")
        self.assertIn("is being moved", (await admin.fail("remove_compute_node", two))[1])
        self.assertEqual(await admin.call("cancel_tasks", ec), 1)
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), ["cancelled"])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")
        await self.assert_on(running, admin, vm, one, two)

    async def test_over_a_restart(self) -> None:
        """Interrupted during the copy, and after the move before it was recorded: the move is completed."""
        for moved in (False, True):
            running = self.serve()
            admin = await running.login()
            one, two = await admin.node(f"one{moved}", delay=5.0), await admin.node(f"two{moved}", delay=5.0)
            vm = await admin.do("create_vm", {"name": f"web{moved}", "compute_node": one, "disks": [{"size": 8}]})
            await admin.call("migrate_vm", vm, two, COPY)
            ec = await admin.call("commit_tasks")
            host = await simulated(running, two)
            while not host.all_volumes():
                await running.pass_time(0.25)
            while moved and not host.domains():
                await running.pass_time(0.25)
            running = await self.restart(running)
            admin = await running.login()
            await admin.finish(ec)
            self.assertEqual(await admin.call("get_errors", ec), [""])
            await self.assert_on(running, admin, vm, two, one)
            await running.stop()
            self.running.remove(running)

    async def test_old_volumes_that_stay(self) -> None:
        running = self.serve()
        admin = await running.login()
        one, two = await admin.node("one", fail=["delete_volume"]), await admin.node("two")
        vm = await admin.do("create_vm", {"name": "web", "compute_node": one, "disks": [{"size": 8}]})
        code, words = await admin.fail("migrate_vm", vm, two, COPY)
        self.assertEqual(code, 503)
        self.assertIn("VM web was moved, but some of its old volumes on compute node one (default/web-vda-", words)
        self.assertEqual((await admin.call("get_vm", vm))["compute_node"], two)

    async def test_planned(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running)
        vm = await admin.do("create_vm", {"name": "web", "compute_node": one, "disks": [{"size": 8}]})
        await admin.call("migrate_vm", vm, two, COPY)
        await admin.call("migrate_vm", vm, one)
        await admin.call("remove_compute_node", one)
        planned = await admin.call("plan_tasks")
        self.assertEqual([task["ok"] for task in planned], [True, False, True], planned)
        self.assertIn("copy_storage", planned[1]["error"])
        self.assertEqual((await admin.call("get_vm", vm))["compute_node"], one)
