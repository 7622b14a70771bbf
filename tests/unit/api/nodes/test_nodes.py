from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail
from zope.interface.interface import InterfaceClass

from fluidvm.driver import DomainSpec
from fluidvm.model.faults import Unavailable
from fluidvm.nodes import watch as node_watch
from fluidvm.store.database import Database
from tests.support import Client, Running, ServerCase


def simulated(running: Running, node: int) -> Any:
    """The host of a simulated node: changes made there bypass the server."""
    return running.server._nodes._watches[node].connection.simulated


class NodeTests(ServerCase):
    async def test_changed(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node(labels=["ssd"], memory=1000)
        shown = await admin.call("get_compute_node", node)
        self.assertEqual((shown["vcpu_overcommit"], shown["memory_overcommit"], shown["reserved_memory"]), (16.0, 1.0, 0))
        options = {"labels": ["hdd", "fast"], "memory_overcommit": 1.5, "reserved_memory": 100, "weight": 2.0}
        await admin.do("set_compute_node", node, options)
        running = await self.restart(running)
        admin = await running.login()
        shown = await admin.call("get_compute_node", node)
        self.assertEqual({key: shown[key] for key in options}, options)
        self.assertEqual(shown["memory"], 1000)
        await self.refused(-32602, admin.call("set_compute_node", node, {"memory": 5}))

    async def test_modes(self) -> None:
        admin = await self.serve().login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "one"})
        await admin.do("start_vm", vm)
        await admin.do("set_compute_node_mode", node, "cordoned")
        self.assertEqual((await admin.call("get_compute_node", node))["mode"], "cordoned")
        self.assertEqual((await admin.fail("create_vm", {"name": "x", "compute_node": node}))[0], 409)
        code, words = await admin.fail("create_disk", {"name": "x", "size": 1})
        self.assertEqual((code, "node1: cordoned" in words), (503, True))
        await admin.do("stop_vm", vm)
        await admin.do("start_vm", vm)
        await admin.do("set_compute_node_mode", node, "maintenance")
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")
        await admin.do("stop_vm", vm)
        self.assertEqual((await admin.fail("start_vm", vm))[0], 409)
        await admin.do("set_compute_node_mode", node, "active")
        await admin.do("start_vm", vm)
        await self.refused(-32602, admin.call("set_compute_node_mode", node, "asleep"))

    async def test_removed(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "one", "disks": [{"size": 1}]})
        self.assertEqual((await admin.fail("remove_compute_node", node))[0], 409)
        await admin.do("delete_vm", vm, {"keep_disks": True})
        code, words = await admin.fail("remove_compute_node", node)
        self.assertEqual((code, "disk one-vda" in words), (409, True))
        await admin.do("delete_disk", 1)
        await admin.do("remove_compute_node", node)
        await self.refused(404, admin.call("get_compute_node", node))
        self.assertFalse((self.directory / "state" / f"node-{node}").exists())
        self.assertEqual(await admin.node(), node + 1)

    async def test_refreshed(self) -> None:
        """Changes that a driver without events doesn't report are found; an offline node is connected at once."""
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "one", "memory": 64})
        host = simulated(running, node)
        host.connections[0]._listeners.clear()
        host.start((await admin.call("get_vm", vm))["uuid"])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")
        await admin.do("refresh_compute_node", node)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")
        simulated(running, node).connections[0].cut("the cable")
        await running.pass_time(0)
        self.assertEqual((await admin.call("get_compute_node", node))["state"], "offline")
        await admin.do("refresh_compute_node", node)
        self.assertEqual((await admin.call("get_compute_node", node))["state"], "online")

    async def test_refreshing_a_node_that_stays_offline(self) -> None:
        admin = await self.serve().login()
        node = await admin.do("add_compute_node", "away", "simulator", "", {"fail": ["connect"]})
        code, words = await admin.fail("refresh_compute_node", node)
        self.assertEqual(code, 503)
        self.assertIn("configured to fail", words)

    async def off(self, running: Running, node: int, vm: int) -> None:
        """Turn a VM off on its host while the store fails; check that the server shows it once the store is back."""
        failing = self.patch(Database, "run", lambda *args: fail(Unavailable("The store failed: for the test.")))
        (uuid,) = [domain.uuid for domain in simulated(running, node).domains()]
        simulated(running, node).stop(uuid)
        running.clock.advance(30)
        failing.restore()
        client = await running.login()
        while (await client.call("get_vm", vm))["state"] != "stopped":
            await running.pass_time(5)

    async def test_changes_while_the_store_fails_are_shown_afterwards(self) -> None:
        running = self.serve()
        client = await running.login()
        node = await client.node()
        vm = await client.do("create_vm", {"name": "web"})
        await client.do("start_vm", vm)
        await self.off(running, node, vm)

    async def test_polling_continues_after_the_store_failed(self) -> None:
        self.patch(node_watch, "IEvents", InterfaceClass("INobodyProvidesThis"))
        await self.test_changes_while_the_store_fails_are_shown_afterwards()

    async def test_foreign_guests(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        await admin.do("create_vm", {"name": "ours"})
        uuid = "11111111-2222-3333-4444-555555555555"
        simulated(running, node).define(DomainSpec(uuid, "theirs", 1, 1, 64, 64))
        (found,) = await admin.call("list_foreign_vms", node)
        self.assertEqual(found, {"uuid": uuid, "name": "theirs", "state": "stopped", "vcpus": 1, "memory": 64})
        user = await admin.user("alice")
        await self.refused(403, user.call("list_foreign_vms", node))

    async def test_a_node_that_hangs_is_reported_in_time_and_affects_no_other(self) -> None:
        running = self.serve("--node-timeout", "20")
        admin = await running.login()
        bad = await admin.node("bad")
        vm = await admin.do("create_vm", {"name": "one", "compute_node": bad})
        good = await admin.node("good")
        other = await admin.do("create_vm", {"name": "two", "compute_node": good})
        running.server._nodes._watches[bad].connection._connection._faults._hang = frozenset(["start"])
        await admin.call("start_vm", vm)
        hanging = await admin.call("commit_tasks")
        await admin.do("start_vm", other)
        await admin.finish(hanging)
        context = await admin.call("get_execution_context", hanging)
        self.assertEqual(context["tasks"][0]["code"], 503)
        self.assertIn("no answer to start within 20 s", context["errors"][0])
        # It is connected again, and the state of its guests is read.
        await running.pass_time(2)
        await running.pass_time(2)
        self.assertEqual((await admin.call("get_compute_node", bad))["state"], "online")
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")


class PlacementTests(ServerCase):
    async def where(self, client: Client, name: str, **spec: Any) -> int:
        vm = await client.do("create_vm", {"name": name, **spec})
        return int((await client.call("get_vm", vm))["compute_node"])

    async def test_spread_and_pack(self) -> None:
        for strategy, expected in (("spread", [2, 1, 2]), ("pack", [1, 1, 2])):
            (self.directory / strategy).mkdir()
            running = self.serve("--placement", strategy, "--state", str(self.directory / strategy))
            admin = await running.login()
            await admin.node("node1", memory=1100)
            await admin.node("node2", memory=1500)
            placed = [await self.where(admin, f"vm{number}", memory=500) for number in range(3)]
            self.assertEqual(placed, expected, strategy)

    async def test_overcommit_reserved_and_reasons(self) -> None:
        admin = await self.serve().login()
        node = await admin.node("node1", memory=1000, vcpus=2, reserved_memory=200, vcpu_overcommit=1.0)
        code, words = await admin.fail("create_vm", {"name": "x", "memory": 900})
        self.assertEqual(code, 503)
        self.assertIn("node1: memory, 100 MiB short", words)
        self.assertIn("node1: virtual CPUs, 1 short", (await admin.fail("create_vm", {"name": "x", "vcpus": 3}))[1])
        await admin.do("set_compute_node", node, {"memory_overcommit": 2.0, "vcpu_overcommit": 2.0})
        await admin.do("create_vm", {"name": "x", "memory": 900, "vcpus": 4})
        self.assertIn("100 MiB short", (await admin.fail("create_vm", {"name": "y", "memory": 800}))[1])
        planned = await admin.call("create_vm", {"name": "y", "memory": 800})
        self.assertIn("node1: memory, 100 MiB short", (await admin.call("plan_tasks"))[0]["error"])
        self.assertTrue(planned)

    async def test_the_maximum_of_a_guest_counts(self) -> None:
        admin = await self.serve().login()
        one = await admin.node("node1", memory=1000, vcpus=4, vcpu_overcommit=1.0)
        small = {"name": "x", "memory": 64, "vcpus": 1}
        self.assertIn("node1: memory, 100 MiB short", (await admin.fail("create_vm", {**small, "max_memory": 1100}))[1])
        self.assertIn("node1: virtual CPUs, 1 short", (await admin.fail("create_vm", {**small, "max_vcpus": 5}))[1])
        await admin.do("create_vm", {**small, "max_memory": 900, "max_vcpus": 3})
        node = await admin.call("get_compute_node", one)
        self.assertEqual((node["memory_used"], node["vcpus_used"]), (900, 3))
        self.assertIn("node1: memory, 100 MiB short", (await admin.fail("create_vm", {"name": "y", "memory": 200}))[1])
        two = await admin.node("node2", memory=800, vcpus=4, vcpu_overcommit=1.0)
        self.assertIn("node2: memory, 100 MiB short", (await admin.fail("evacuate_compute_node", one))[1])
        await admin.do("set_compute_node", two, {"memory_overcommit": 2.0})
        await admin.do("evacuate_compute_node", one)
        node = await admin.call("get_compute_node", two)
        self.assertEqual((node["memory_used"], node["vcpus_used"]), (900, 3))

    async def test_simultaneous_creations_share_the_room(self) -> None:
        admin = await self.serve().login()
        await admin.node("node1", memory=1000, delay=1.0)
        ecs = []
        for number in range(4):
            await admin.call("create_vm", {"name": f"vm{number}", "memory": 64, "max_memory": 400})
            ecs.append(await admin.call("commit_tasks"))
        codes = []
        for ec in ecs:
            await admin.finish(ec)
            codes.append((await admin.call("get_execution_context", ec))["tasks"][0]["code"])
        self.assertEqual(sorted(codes), [0, 0, 503, 503])

    async def test_room_in_the_storage_pool(self) -> None:
        admin = await self.serve().login()
        await admin.node("node1", pool_size=100)
        code, words = await admin.fail("create_vm", {"name": "x", "disks": [{"size": 60}, {"size": 60}]})
        self.assertEqual(code, 503)
        self.assertIn("node1: storage pool default, 20 MiB short", words)
        self.assertIn("1 MiB short", (await admin.fail("create_disk", {"name": "x", "size": 101}))[1])
        large = await admin.node("node2", pool_size=200)
        self.assertEqual(await self.where(admin, "x", disks=[{"size": 60}, {"size": 60}]), large)


class DriverTests(ServerCase):
    async def test_listed(self) -> None:
        admin = await self.serve().login()
        user = await admin.user("alice")
        found = {one["name"]: one for one in await user.call("list_drivers")}
        self.assertIn("LiveResize", found["simulator"]["abilities"])
        self.assertEqual(found["simulator"]["distribution"], "fluidvm")
        self.assertTrue(found["simulator"]["summary"])
        self.assertEqual(await user.call("list_drivers", {"name": "simulator", "fields": ["name"]}), [{"name": "simulator"}])

    async def test_described(self) -> None:
        admin = await self.serve().login()
        told = await admin.call("get_driver", "simulator")
        self.assertEqual(told["methods"]["set_vm_memory"], "running VMs too")
        self.assertIn("attach_disk", told["methods"])
        self.assertIn("delay", told["options"])
        await self.refused(404, admin.call("get_driver", "nothing"))
