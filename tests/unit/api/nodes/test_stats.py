from __future__ import annotations

from tests.support import ServerCase


class StatsTests(ServerCase):
    async def test_a_vm(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        alice, bob = await admin.user("alice"), await admin.user("bob")
        vm = await alice.do("create_vm", {"name": "one", "memory": 64, "vcpus": 2})
        self.assertEqual(await alice.call("get_vm_stats", vm), {})
        running.clock.advance(100)
        for _ in range(2):  # usage before the stop isn't reported any more
            await alice.do("start_vm", vm)
            running.clock.advance(10)
            told = await alice.call("get_vm_stats", vm)
            self.assertEqual(told["memory"], 64)
            self.assertTrue(2.0 <= told["cpu_time"] < 3.0, told)
            await alice.do("pause_vm", vm)
            self.assertTrue(2.0 <= (await alice.call("get_vm_stats", vm))["cpu_time"] < 3.0)
            await alice.do("stop_vm", vm)
        await alice.do("start_vm", vm)
        await self.refused(404, bob.call("get_vm_stats", vm))
        await self.refused(404, alice.call("get_vm_stats", 99))

    async def test_a_node(self) -> None:
        admin = await self.serve().login()
        node = await admin.node(vcpus=4, memory=1000)
        vm = await admin.do("create_vm", {"name": "one", "memory": 64, "vcpus": 2})
        await admin.do("start_vm", vm)
        told = await admin.call("get_compute_node_stats", node)
        self.assertEqual((told["vcpus"], told["vcpus_used"], told["memory_used_by_vms"], told["vms"]), (4, 2, 64, 1))
        self.assertEqual((told["cpu"], told["memory_used"]), (5.0, 64))
        user = await admin.user("alice")
        await self.refused(403, user.call("get_compute_node_stats", node))

    async def test_a_node_that_is_offline(self) -> None:
        admin = await self.serve().login()
        node = await admin.do("add_compute_node", "away", "simulator", "", {"fail": ["connect"]})
        await self.refused(503, admin.call("get_compute_node_stats", node))
