from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from fluidvm.driver import DriverError, Unreachable
from fluidvm.drivers.simulator.driver import SimulatedConnection, SimulatorDriver
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.objects import VM
from tests.support import Client, Running, ServerCase, simulated


class EvacuationTests(ServerCase):
    async def two(self, running: Running, **options: Any) -> tuple[Client, int, int]:
        admin = await running.login()
        return admin, await admin.node("one", **options), await admin.node("two", **options)

    async def where(self, admin: Client) -> dict[str, tuple[int, str]]:
        """The node and the state of each VM, by name."""
        return {vm["name"]: (vm["compute_node"], vm["state"]) for vm in await admin.call("list_vms")}

    async def held(self, running: Running, node: int) -> tuple[int, int]:
        """The number of domains and of volumes on a node."""
        host = await simulated(running, node)
        return len(host.domains()), len(host.all_volumes())

    async def test_all_move(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running)
        alice = await admin.user("alice")
        off = await admin.do("create_vm", {"name": "off", "compute_node": one, "disks": [{"size": 8}]})
        on = await alice.do("create_vm", {"name": "on", "compute_node": one, "interfaces": [{"network": "lan"}]})
        await alice.do("start_vm", on)
        await admin.do("evacuate_compute_node", one)
        self.assertEqual(await self.where(admin), {"off": (two, "stopped"), "on": (two, "running")})
        self.assertEqual((await self.held(running, one), await self.held(running, two)), ((0, 0), (2, 1)))
        self.assertEqual((await admin.call("get_compute_node", one))["mode"], "cordoned")
        (ec,) = await admin.call("list_execution_contexts", {"limit": 1})
        self.assertEqual((ec["results"], ec["progress"]), ([2], [100]))
        await admin.do("evacuate_compute_node", one)
        await admin.do("remove_compute_node", one)
        self.assertEqual((await admin.call("get_vm", off))["compute_node"], two)

    async def test_vms_that_cannot_move_stay_and_are_reported(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running, memory=1000)
        for name, memory in (("a", 300), ("b", 900), ("c", 300), ("d", 300)):
            await admin.do("create_vm", {"name": name, "memory": memory, "compute_node": one, "force": True})
        await admin.do("start_vm", 3)
        await admin.do("pause_vm", 3)
        code, words = await admin.fail("evacuate_compute_node", one)
        self.assertEqual(code, 409)
        self.assertIn("2 of 4 VMs stayed on compute node one.", words)
        self.assertIn("b (2): No compute node fits (one: cordoned; two: memory, 200 MiB short).", words)
        self.assertIn("c (3): VM c is paused", words)
        expected = {"a": (two, "stopped"), "b": (one, "stopped"), "c": (one, "paused"), "d": (two, "stopped")}
        self.assertEqual(await self.where(admin), expected)

    async def test_a_node_that_fails_to_move_one(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running)
        for name in ("a", "b"):
            await admin.do("create_vm", {"name": name, "compute_node": one, "disks": [{"size": 1}]})
        moving = SimulatedConnection.migrate

        def once(connection: SimulatedConnection, spec: Any, *arguments: Any) -> Deferred[None]:
            if spec.name.startswith("a-"):
                return fail(DriverError("The guest is too busy."))
            return moving(connection, spec, *arguments)

        self.patch(SimulatedConnection, "migrate", once)
        _, words = await admin.fail("evacuate_compute_node", one)
        self.assertIn("1 of 2 VMs stayed on compute node one. a (1): The guest is too busy.", words)
        self.assertEqual((await self.held(running, one), await self.held(running, two)), ((1, 1), (1, 1)))

    async def test_earlier_tasks_run_first_and_later_ones_find_the_vm_moved(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running, delay=1.0)
        vms = [await admin.do("create_vm", {"name": name, "compute_node": one}) for name in ("a", "b")]
        other = await running.login()
        # Both wait for claims of the evacuation, or it waits for theirs; there is no deadlock.
        contexts = []
        for method, arguments in (
            ("start_vm", (vms[1],)),
            ("evacuate_compute_node", (one,)),
            ("migrate_vm", (vms[0], one, {})),
            ("stop_vm", (vms[1],)),
            ("evacuate_compute_node", (one,)),
        ):
            await other.call(method, *arguments)
            contexts.append(await other.call("commit_tasks"))
        for ec in contexts:
            await admin.finish(ec)
        errors = [await admin.call("get_errors", ec) for ec in contexts]
        self.assertEqual(errors[:2] + errors[3:], 4 * [[""]], errors)
        self.assertEqual(await self.where(admin), {"a": (two, "stopped"), "b": (two, "stopped")})

    async def test_one_slot_per_node_is_enough(self) -> None:
        running = self.serve("--tasks-per-node", "1")
        admin, one, two = await self.two(running, delay=1.0)
        vm = await admin.do("create_vm", {"name": "a", "compute_node": one})
        contexts = []
        for method, arguments in (("evacuate_compute_node", (one,)), ("start_vm", (vm,)), ("evacuate_compute_node", (one,))):
            await admin.call(method, *arguments)
            contexts.append(await admin.call("commit_tasks"))
        for ec in contexts:
            await admin.finish(ec)
        self.assertEqual([await admin.call("get_errors", ec) for ec in contexts], 3 * [[""]])
        self.assertEqual(await self.where(admin), {"a": (two, "running")})

    async def test_cancelled(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running, delay=10.0)
        for name in ("a", "b", "c"):
            await admin.do("create_vm", {"name": name, "compute_node": one, "disks": [{"size": 1}]})
        await admin.call("evacuate_compute_node", one)
        ec = await admin.call("commit_tasks")
        while (await self.where(admin))["a"][0] == one:
            await running.pass_time(1)
        (progress,) = await admin.call("get_task_progress", ec)
        self.assertTrue(1 < progress < 100, progress)
        self.assertEqual(await admin.call("cancel_tasks", ec), 1)
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), ["cancelled"])
        nodes = [node for node, _ in (await self.where(admin)).values()]
        self.assertEqual(nodes, [two, one, one])
        self.assertEqual((await self.held(running, one), await self.held(running, two)), ((2, 2), (1, 1)))

    async def test_over_a_restart(self) -> None:
        running = self.serve()
        admin, one, two = await self.two(running, delay=10.0)
        for name in ("a", "b", "c"):
            await admin.do("create_vm", {"name": name, "compute_node": one, "disks": [{"size": 1}]})
        await admin.call("evacuate_compute_node", one)
        ec = await admin.call("commit_tasks")
        # A task that waits for the VM being moved must find it moved, although its context is older.
        while len([node for node, _ in (await self.where(admin)).values() if node == two]) < 1:
            await running.pass_time(1)
        await admin.call("start_vm", 2)
        start = await admin.call("commit_tasks")
        for _ in range(15):
            await running.pass_time(1)
        running = await self.restart(running)
        admin = await running.login()
        for context in (ec, start):
            await admin.finish(context)
            self.assertEqual(await admin.call("get_errors", context), [""])
        self.assertEqual(await self.where(admin), {"a": (two, "stopped"), "b": (two, "running"), "c": (two, "stopped")})
        self.assertEqual((await self.held(running, one), await self.held(running, two)), ((0, 0), (3, 3)))

    async def active_between(self, running: Running) -> tuple[Client, int, int, int]:
        """
        Evacuate a node with two VMs, one of which is being started, and set it to active while the evacuation waits.

        @return: the administrator, the node, and the contexts of the start and of the evacuation.
        """
        admin, one, _ = await self.two(running, delay=10.0)
        for name in ("a", "b"):
            await admin.do("create_vm", {"name": name, "compute_node": one})
        await admin.call("start_vm", 1)
        start = await admin.call("commit_tasks")
        other = await running.login()
        await admin.call("evacuate_compute_node", one)
        await other.call("set_compute_node_mode", one, "active")
        # At once, so that it already waits for the node when the evacuation releases the node to wait for the VM as well.
        both = [Deferred.fromCoroutine(client.call("commit_tasks")) for client in (admin, other)]
        evacuation, activation = [await committed for committed in both]
        while any(await admin.call("get_task_state", activation)):
            await running.pass_time(0.0)
        self.assertEqual(await admin.call("get_task_state", start), [1], "the evacuation still waits for it")
        return admin, one, start, evacuation

    async def test_active_again_meanwhile(self) -> None:
        """Its VMs would fit best on the node itself, but they aren't moved there."""
        running = self.serve()
        admin, one, start, evacuation = await self.active_between(running)
        await admin.finish(start)
        for _ in range(100):  # bounded: with the bug it never ended
            await running.pass_time(1.0)
        self.assertEqual(
            await admin.call("get_errors", evacuation),
            [
                "Compute node one was set to active again during its evacuation: evacuate it again to move its other VMs "
                "(moved so far: 0)."
            ],
        )
        self.assertEqual(await self.where(admin), {"a": (one, "running"), "b": (one, "stopped")})
        self.assertEqual((await admin.call("get_compute_node", one))["mode"], "active")

    async def test_active_again_before_a_restart(self) -> None:
        """The resumed evacuation doesn't cordon the node again without its administrator's knowledge, and ends."""
        running = self.serve()
        admin, one, start, evacuation = await self.active_between(running)
        running = await self.restart(running)
        admin = await running.login()
        await admin.finish(start)
        for _ in range(100):
            await running.pass_time(1.0)
        self.assertIn("set to active again", (await admin.call("get_errors", evacuation))[0])
        self.assertEqual((await admin.call("get_compute_node", one))["mode"], "active")

    async def test_the_vm_being_moved_is_gone_after_a_restart(self) -> None:
        running, admin, evacuation = await self.interrupted()
        self.execute("DELETE FROM disks WHERE vm = 1")
        self.execute("DELETE FROM vms WHERE id = 1")
        looks = 0
        look = Inventory.vms_on

        def bounded(inventory: Inventory, node: int) -> list[VM]:
            nonlocal looks
            looks += 1
            if looks > 1000:
                raise AssertionError("it looks for ever, and nobody else has a turn")
            return look(inventory, node)

        self.patch(Inventory, "vms_on", bounded)
        running = self.serve()
        admin = await running.login()
        await admin.finish(evacuation)
        self.assertEqual(await admin.call("get_errors", evacuation), [""])
        self.assertEqual(await admin.call("get_results", evacuation), [1])

    async def test_a_node_that_is_offline_after_a_restart(self) -> None:
        """The error names what was created on the other node, because it can't be removed now."""
        running, admin, evacuation = await self.interrupted()
        connect = SimulatorDriver.connect

        def away(driver: SimulatorDriver, address: str, options: Any, host: Any) -> Deferred[SimulatedConnection]:
            if host.state_dir.name == "node-1":
                return fail(Unreachable("no route"))
            return connect(driver, address, options, host)

        self.patch(SimulatorDriver, "connect", away)
        running = self.serve()
        admin = await running.login()
        await admin.finish(evacuation)
        (words,) = await admin.call("get_errors", evacuation)
        self.assertIn("2 of 2 VMs stayed on compute node one. a (1): Compute node one is offline", words)
        self.assertIn("Cleaning up on compute node two failed, and default/a-vda-", words)

    async def interrupted(self) -> tuple[Running, Client, int]:
        """
        An evacuation of a node with two VMs, each with a disk, that was interrupted while the first one was moved.

        @return: the server, which is stopped, its administrator, and the context.
        """
        running = self.serve()
        admin, one, two = await self.two(running, delay=10.0)
        for name in ("a", "b"):
            await admin.do("create_vm", {"name": name, "compute_node": one, "disks": [{"size": 1}]})
        await admin.call("evacuate_compute_node", one)
        evacuation = await admin.call("commit_tasks")
        while await self.held(running, two) != (0, 1):
            await running.pass_time(1)
        await running.stop()
        self.running.remove(running)
        return running, admin, evacuation

    async def test_who_may(self) -> None:
        running = self.serve()
        admin, one, _ = await self.two(running)
        alice = await admin.user("alice")
        await self.refused(403, alice.call("evacuate_compute_node", one))
        await self.refused(404, admin.call("evacuate_compute_node", 99))

    async def test_planned(self) -> None:
        running = self.serve()
        admin, one, _ = await self.two(running, memory=600)
        await admin.do("create_vm", {"name": "a", "compute_node": one})
        await admin.do("create_vm", {"name": "b", "compute_node": one, "force": True})
        await admin.call("evacuate_compute_node", one)
        await admin.call("delete_vm", 2)
        await admin.call("evacuate_compute_node", one)
        told = await admin.call("plan_tasks")
        self.assertEqual([line["code"] for line in told], [409, 0, 0])
        self.assertIn("b (2): No compute node fits", told[0]["error"])
        self.assertEqual((await self.where(admin))["a"][0], one)
