from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.support import PASSWORD, Client, ServerCase

LIMITS = {
    "vms": 3,
    "running_vms": 2,
    "vcpus": 6,
    "memory": 2048,
    "disks": 3,
    "disk_space": 100,
    "snapshots": 5,
    "vm_vcpus": 4,
    "vm_memory": 1536,
    "vm_disk": 60,
    "default_vcpus": 2,
    "default_memory": 256,
    "default_disk": 10,
}


class PlanTests(ServerCase):
    async def test_created_changed_and_deleted(self) -> None:
        admin = await self.serve().login()
        limits = {**LIMITS, "cpu_shares": 512, "disk_iops": 100, "disk_mbps": 10, "network_mbps": 50, "drivers": ["kvm"]}
        plan = await admin.do("create_resource_plan", "small", limits)
        shown = await admin.call("get_resource_plan", plan)
        self.assertEqual((shown["id"], shown["name"], shown["limits"], shown["users"]), (plan, "small", limits, 0))
        await admin.do("set_resource_plan", plan, {"vms": 1})
        await admin.do("rename_resource_plan", plan, "tiny")
        self.assertEqual(
            await admin.call("list_resource_plans", {"fields": ["name", "limits"]}), [{"name": "tiny", "limits": {"vms": 1}}]
        )
        await self.refused(409, admin.call("create_resource_plan", "tiny", {}))
        await self.refused(-32602, admin.call("create_resource_plan", "x", {"vms": -1}))
        await self.refused(-32602, admin.call("create_resource_plan", "x", {"cars": 1}))
        await admin.do("delete_resource_plan", plan)
        await self.refused(404, admin.call("get_resource_plan", plan))

    async def test_in_use(self) -> None:
        admin = await self.serve().login()
        plan = await admin.do("create_resource_plan", "small", {})
        user = await admin.do("create_user", "alice", PASSWORD, {"resource_plan": plan})
        self.assertEqual((await admin.fail("delete_resource_plan", plan))[0], 409)
        await admin.do("set_user_resource_plan", user, 0)
        self.assertNotIn("resource_plan", await admin.call("get_user", user))
        await admin.do("delete_resource_plan", plan)
        await self.refused(404, admin.call("set_user_resource_plan", user, plan))

    async def test_survives_a_restart(self) -> None:
        running = self.serve()
        admin = await running.login()
        plan = await admin.do("create_resource_plan", "small", LIMITS)
        user = await admin.do("create_user", "alice", PASSWORD, {"resource_plan": plan})
        admin = await (await self.restart(running)).login()
        self.assertEqual((await admin.call("get_resource_plan", plan))["limits"], LIMITS)
        self.assertEqual((await admin.call("get_user", user))["resource_plan"], plan)
        self.assertEqual((await admin.call("get_resource_plan", plan))["users"], 1)

    async def test_users_see_plans_and_change_none(self) -> None:
        admin = await self.serve().login()
        plan = await admin.do("create_resource_plan", "small", LIMITS)
        alice = await admin.user("alice")
        self.assertEqual((await alice.call("get_resource_plan", plan))["name"], "small")
        await self.refused(403, alice.call("set_resource_plan", plan, {}))
        await self.refused(403, alice.call("set_user_resource_plan", 2, plan))


class QuotaCase(ServerCase):
    async def start(self, limits: dict[str, Any], **node: Any) -> tuple[Client, Client]:
        """An administrator, and a user whose plan has these limits."""
        admin = await self.serve().login()
        await admin.node(**node)
        self.plan = await admin.do("create_resource_plan", "small", limits)
        alice = await admin.user("alice")
        await admin.do("set_user_resource_plan", 2, self.plan)
        return admin, alice

    async def over(self, client: Client, limit: str, method: str, *arguments: Any) -> None:
        """Check that a task fails because of a limit, with an error that names it, and changes nothing."""
        before = await client.call("get_user_usage", 2)
        code, words = await client.fail(method, *arguments)
        self.assertEqual(code, 507, words)
        self.assertIn(limit, words)
        self.assertRegex(words, r"limits .* to .*: .* requested")
        self.assertEqual(await client.call("get_user_usage", 2), before)

    async def used(self, client: Client) -> dict[str, int]:
        """The usage of a user."""
        return {limit: values["used"] for limit, values in (await client.call("get_user_usage", 2)).items()}


class QuotaTests(QuotaCase):
    async def test_each_limit(self) -> None:
        admin, alice = await self.start(LIMITS, memory=65536)
        await self.over(alice, "vm_vcpus", "create_vm", {"name": "x", "vcpus": 5})
        await self.over(alice, "vm_memory", "create_vm", {"name": "x", "memory": 1537})
        await self.over(alice, "vm_disk", "create_vm", {"name": "x", "disks": [{"size": 30}, {"size": 31}]})
        await self.over(alice, "disk_space", "create_disk", {"name": "x", "size": 101})
        first = await alice.do("create_vm", {"name": "first"})
        shown = await alice.call("get_vm", first)
        self.assertEqual((shown["vcpus"], shown["memory"], len(shown["disks"])), (2, 256, 1))
        self.assertEqual((await alice.call("get_disk", shown["disks"][0]))["size"], 10)
        await self.over(alice, "vm_vcpus", "create_vm", {"name": "x", "vcpus": 1, "max_vcpus": 5})
        await self.over(alice, "vm_memory", "create_vm", {"name": "x", "memory": 64, "max_memory": 1537})
        spec = {"name": "second", "vcpus": 1, "max_vcpus": 3, "memory": 64, "max_memory": 256, "disks": []}
        second = await alice.do("create_vm", spec)
        await self.over(alice, "vcpus", "create_vm", {"name": "x"})
        await self.over(alice, "memory", "create_vm", {"name": "x", "vcpus": 1, "memory": 1537})
        await self.over(alice, "vcpus", "set_vm_vcpus", second, 5)
        await self.over(alice, "memory", "set_vm_memory", second, 2000)
        third = await alice.do("create_vm", {"name": "third", "vcpus": 1, "disks": [{"size": 1}]})
        await self.over(alice, "vms", "create_vm", {"name": "x", "vcpus": 1})
        await alice.do("start_vm", first)
        await alice.do("start_vm", second)
        await self.over(alice, "running_vms", "start_vm", third)
        await self.over(alice, "vcpus", "set_vm_vcpus", second, 4)
        await alice.do("set_vm_vcpus", second, 3)  # its maximum was already counted
        await alice.do("set_vm_memory", second, 256)
        disk = await alice.do("create_disk", {"name": "data", "size": 89})
        await self.over(alice, "disks", "create_disk", {"name": "x", "size": 1})
        await self.over(alice, "vm_disk", "attach_disk", third, disk)
        usage = await alice.call("get_user_usage", 2)
        self.assertEqual(usage["vcpus"], {"used": 6, "limit": 6})
        self.assertEqual(usage["running_vms"], {"used": 2, "limit": 2})
        self.assertEqual(usage["disk_space"], {"used": 100, "limit": 100})
        self.assertEqual((await admin.call("get_resource_plan_usage", self.plan))["memory"], {"used": 768, "limit": 2048})
        # What is released can be used at once.
        await alice.do("stop_vm", first)
        await alice.do("start_vm", third)
        await alice.do("delete_vm", first)
        await alice.do("create_vm", {"name": "fourth"})

    async def test_limits_what_administrators_create_for_the_user(self) -> None:
        admin, _ = await self.start({"vms": 1})
        await admin.do("create_vm", {"name": "one", "owner": 2})
        await self.over(admin, "vms", "create_vm", {"name": "two", "owner": 2})
        await admin.do("create_vm", {"name": "two"})

    async def test_drivers(self) -> None:
        admin, alice = await self.start({"drivers": ["kvm"]})
        await self.over(alice, "drivers", "create_vm", {"name": "x", "compute_node": 1})
        await self.over(alice, "drivers", "create_vm", {"name": "x", "driver": "simulator"})
        code, words = await alice.fail("create_vm", {"name": "x"})
        self.assertEqual(code, 503)
        self.assertIn("doesn't allow driver simulator", words)
        await admin.do("set_resource_plan", self.plan, {"drivers": ["kvm", "simulator"]})
        await alice.do("create_vm", {"name": "x"})

    async def test_failures_release_what_they_reserved(self) -> None:
        _, alice = await self.start({"vms": 1, "memory": 512, "running_vms": 1}, fail=["define_domain", "start"])
        for _ in range(3):
            code, _ = await alice.fail("create_vm", {"name": "one"})
            self.assertEqual(code, 503)
        self.assertEqual(set((await self.used(alice)).values()), {0})

    async def test_a_failed_start_releases_what_it_reserved(self) -> None:
        _, alice = await self.start({"running_vms": 1}, fail=["start"])
        for name in ("one", "two"):
            vm = await alice.do("create_vm", {"name": name})
            self.assertEqual((await alice.fail("start_vm", vm))[0], 503)
        self.assertEqual((await self.used(alice))["running_vms"], 0)

    async def test_a_smaller_plan_stops_and_deletes_nothing(self) -> None:
        admin, alice = await self.start({})
        vm = await alice.do("create_vm", {"name": "one", "memory": 768, "max_memory": 1024})
        await alice.do("start_vm", vm)
        await admin.do("set_resource_plan", self.plan, {"memory": 512, "running_vms": 0, "vms": 0})
        self.assertEqual((await alice.call("get_vm", vm))["state"], "running")
        await self.over(alice, "memory", "set_vm_memory", vm, 1025)
        await alice.do("set_vm_memory", vm, 512)

    async def test_plan_tasks_sees_what_is_planned(self) -> None:
        _, alice = await self.start({"vms": 2, "running_vms": 1})
        vms = [await alice.call("create_vm", {"name": f"vm{number}"}) for number in range(3)]
        for vm in vms:
            await alice.call("start_vm", vm)
        planned = await alice.call("plan_tasks")
        self.assertEqual([line["code"] for line in planned], [0, 0, 507, 0, 507, 404])
        self.assertEqual(set((await self.used(alice)).values()), {0})
        ec = await alice.commit()
        codes = [task["code"] for task in (await alice.call("get_execution_context", ec))["tasks"]]
        self.assertEqual(codes, [0, 0, 507, 0, 507, 404])

    async def test_reserved_over_a_crash(self) -> None:
        """Growth that was in progress when the server died is still reserved after the restart."""
        running = self.serve()
        admin = await running.login()
        await admin.node(hang=["set_memory"])
        plan = await admin.do("create_resource_plan", "small", {"memory": 1024})
        alice = await admin.user("alice")
        await admin.do("set_user_resource_plan", 2, plan)
        one = await alice.do("create_vm", {"name": "one", "memory": 256})
        await alice.call("set_vm_memory", one, 768)
        await alice.call("commit_tasks")
        await running.pass_time(0.1)
        await running.pass_time(0.1)
        admin = await (await self.restart(running)).login()
        alice = await admin.running.login("alice")
        await self.over(alice, "memory", "create_vm", {"name": "two", "memory": 300})
        await alice.do("create_vm", {"name": "three", "memory": 256})


class MaximumTests(QuotaCase):
    """The maxima of a guest count, not its current amounts."""

    BIG = {"name": "big", "memory": 64, "max_memory": 3000, "vcpus": 1, "max_vcpus": 9}
    HELD = {"memory": 3000, "vcpus": 9}

    async def held(self, client: Client) -> dict[str, int]:
        used = await self.used(client)
        return {limit: used[limit] for limit in self.HELD}

    async def test_each_way_to_get_a_vm(self) -> None:
        """Created, copied, transferred, taken over: the totals, and the limits of one VM."""
        for limit, most, words in (
            ("memory", 200, "3000 MiB more"),
            ("vcpus", 8, "9 more"),
            ("vm_memory", 200, "3000 MiB"),
            ("vm_vcpus", 8, "9 requested"),
        ):
            admin, alice = await self.start({limit: most})
            code, told = await alice.fail("create_vm", self.BIG)
            self.assertEqual((code, words in told), (507, True), told)
            mine = await admin.do("create_vm", self.BIG)
            await self.over(admin, limit, "set_vm_owner", mine, 2)
            host = (await admin.running.server._nodes.connection(1)).simulated  # type: ignore[attr-defined]
            guest = replace(host.domains()[0], uuid="6b2c1f0e-8d5a-4c39-9f7b-0123456789ab", name="foreign")
            host.add(guest)
            await self.over(admin, limit, "adopt_vm", 1, guest.uuid, 2)
            await admin.do("set_resource_plan", self.plan, {})
            await admin.do("set_vm_owner", mine, 2)
            self.assertEqual(await self.held(admin), self.HELD)
            await admin.do("set_resource_plan", self.plan, {limit: most})
            await self.over(alice, limit, "clone_vm", mine, "copy")
            await admin.do("set_resource_plan", self.plan, {})
            await alice.do("clone_vm", mine, "copy")
            await admin.do("adopt_vm", 1, guest.uuid, 2)
            self.assertEqual(await self.held(admin), {limit: 3 * held for limit, held in self.HELD.items()})
            self.running.remove(admin.running)
            await admin.running.stop()
            self.forget()

    async def test_growing_over_the_maximum(self) -> None:
        _, alice = await self.start({"memory": 4000, "vcpus": 10})
        vm = await alice.do("create_vm", self.BIG)
        await alice.do("set_vm_memory", vm, 3000)
        await alice.do("set_vm_vcpus", vm, 9)
        self.assertEqual(await self.held(alice), self.HELD)
        await self.over(alice, "memory", "set_vm_memory", vm, 4001)
        await self.over(alice, "vcpus", "set_vm_vcpus", vm, 11)
        await alice.do("set_vm_memory", vm, 4000)
        await alice.do("set_vm_vcpus", vm, 10)
        # The maximum stays, and still counts.
        await alice.do("set_vm_memory", vm, 64)
        await alice.do("set_vm_vcpus", vm, 1)
        self.assertEqual(await self.held(alice), {"memory": 4000, "vcpus": 10})

    async def test_after_a_crash(self) -> None:
        """The totals are computed again at the start."""
        admin, alice = await self.start({})
        await alice.do("create_vm", self.BIG)
        admin = await (await self.restart(admin.running)).login()
        self.assertEqual(await self.held(admin), self.HELD)
        node = await admin.call("get_compute_node", 1)
        self.assertEqual((node["memory_used"], node["vcpus_used"]), (3000, 9))


class RaceTests(QuotaCase):
    async def test_no_interleaving_exceeds_a_limit(self) -> None:
        """Many sessions at once: no limit is exceeded after any change, and the totals are correct at the end."""
        limits = {"vms": 4, "running_vms": 2, "vcpus": 9, "memory": 2000, "disks": 6, "disk_space": 50}
        admin, _ = await self.start(limits, delay=0.01, memory=10**6, vcpus=1000)
        running = admin.running
        dice = random.Random(5)
        exceeded: list[Any] = []
        ledger = running.server.inventory.ledger

        def look(rows: object) -> None:
            for limit, most in limits.items():
                if ledger.used(("user", 2), limit) > most:
                    exceeded.append((limit, ledger.used(("user", 2), limit)))

        running.server.inventory.listen(look)
        codes: list[int] = []
        clients = [await running.login("alice") for _ in range(12)]
        working = gatherResults(
            [Deferred.fromCoroutine(self.work(client, number, dice, codes)) for number, client in enumerate(clients)]
        )
        while not working.called:
            await running.pass_time(0.01)
        await working
        self.assertEqual(exceeded, [])
        self.assertIn(507, codes)
        self.assertGreater(codes.count(0), 50)
        vms, disks = await admin.call("list_vms"), await admin.call("list_disks")
        self.assertEqual(
            await self.used(admin),
            {
                "vms": len(vms),
                "snapshots": 0,
                "running_vms": sum(vm["state"] in ("running", "paused") for vm in vms),
                "vcpus": sum(vm["max_vcpus"] for vm in vms),
                "memory": sum(vm["max_memory"] for vm in vms),
                "disks": len(disks),
                "disk_space": sum(disk["size"] for disk in disks),
            },
        )
        for vm in vms:
            await admin.do("stop_vm", vm["id"])
            await admin.do("delete_vm", vm["id"])
        for disk in await admin.call("list_disks"):
            await admin.do("delete_disk", disk["id"])
        self.assertEqual(set((await self.used(admin)).values()), {0})
        for number in range(limits["vms"]):
            await clients[0].do("create_vm", {"name": f"again{number}", "memory": 500, "vcpus": 2})

    async def work(self, client: Client, number: int, dice: random.Random, codes: list[int]) -> None:
        for step in range(12):
            vm = await client.call(
                "create_vm",
                {
                    "name": f"vm-{number}-{step}",
                    "memory": dice.randint(100, 500),
                    "vcpus": dice.randint(1, 2),
                    "max_memory": dice.randint(500, 900),
                    "max_vcpus": dice.randint(2, 3),
                    "disks": [{"size": dice.randint(1, 20)}],
                },
            )
            calls = [
                ("start_vm",),
                ("stop_vm",),
                ("start_vm",),
                ("pause_vm",),
                ("set_vm_memory", dice.randint(100, 1500)),
                ("set_vm_vcpus", dice.randint(1, 6)),
            ]
            for method, *arguments in dice.sample(calls, 4):
                await client.call(method, vm, *arguments)  # type: ignore[arg-type]
            await client.call("create_disk", {"name": f"disk-{number}-{step}", "size": dice.randint(1, 20)})
            if dice.random() < 0.95:
                await client.call("stop_vm", vm)
                await client.call("delete_vm", vm)
            ec = await client.call("commit_tasks")
            while not await client.call("wait_for_tasks", ec, 25):
                pass
            context = await client.call("get_execution_context", ec)
            codes.extend(task["code"] for task in context["tasks"])
            for task in context["tasks"]:
                if task["method"] == "create_disk" and not task["code"] and dice.random() < 0.95:
                    await client.call("delete_disk", task["target"])
                    await client.call("commit_tasks")
