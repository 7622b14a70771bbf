"""Disks whose volumes appear, disappear or grow on the host without the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from twisted.internet.defer import Deferred

from fluidvm.drivers.simulator.driver import SimulatedConnection
from fluidvm.nodes.storage import INTERVAL
from tests.support import Client, Running, ServerCase
from tests.unit.api.nodes.test_nodes import simulated


class DiskTests(ServerCase):
    async def start(self) -> tuple[Running, Client, int]:
        """A node with a disk whose volume is named C{data-...}."""
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        await admin.do("create_disk", {"name": "data", "size": 10})
        return running, admin, node

    async def state(self, admin: Client, disk: int = 1) -> str:
        """The reported state of a disk."""
        state: str = (await admin.call("get_disk", disk))["state"]
        return state

    async def test_a_volume_that_is_gone_and_comes_back(self) -> None:
        running, admin, node = await self.start()
        host = simulated(running, node)
        (volume,) = host.all_volumes()
        host.delete_volume(volume.pool, volume.name)
        await admin.call("ping")
        await admin.do("refresh_compute_node", node)
        self.assertEqual(await self.state(admin), "missing")
        changes = [(change["type"], change["id"], change["change"]) for change in await admin.call("ping")]
        self.assertIn(("disk", 1, "updated"), changes)
        vm = await admin.do("create_vm", {"name": "one"})
        self.assertEqual((await admin.fail("attach_disk", vm, 1))[0], 409)
        host.put_volume(volume)
        await admin.do("refresh_compute_node", node)
        self.assertEqual(await self.state(admin), "ready")
        host.delete_volume(volume.pool, volume.name)
        await admin.do("refresh_compute_node", node)
        await admin.do("delete_disk", 1)

    async def test_checked_when_connected_and_every_minute(self) -> None:
        running, _, node = await self.start()
        host = simulated(running, node)
        (volume,) = host.all_volumes()
        host.put_volume(replace(volume, size=15))
        await running.pass_time(INTERVAL + 1)
        await self.until(lambda: running.server.inventory.disks_on(node)[0].size == 15)
        host.delete_volume(volume.pool, volume.name)
        host.cut("the cable was pulled")
        for _ in range(4):
            await running.pass_time(1)
        await self.until(lambda: running.server.inventory.disks_on(node)[0].state == "missing")

    async def test_a_volume_that_was_replaced(self) -> None:
        """The size that a volume of another format reports isn't taken for the disk's."""
        running, admin, node = await self.start()
        host = simulated(running, node)
        (volume,) = host.all_volumes()
        before = await admin.call("get_disk", 1)
        host.put_volume(replace(volume, size=3 << 20, format="raw"))
        await running.server._nodes.refresh(node)
        self.assertEqual(await admin.call("get_disk", 1), before)

    async def test_a_simultaneous_task_takes_precedence(self) -> None:
        running, admin, node = await self.start()
        held: list[Deferred[None]] = []
        told = SimulatedConnection.list_volumes

        def later(connection: SimulatedConnection, pool: str, formats: Mapping[str, str]) -> Deferred[object]:
            waiter: Deferred[None] = Deferred()
            held.append(waiter)
            answer = told(connection, pool, formats)
            return waiter.addCallback(lambda _: answer)

        self.patch(SimulatedConnection, "list_volumes", later)
        looking = Deferred.fromCoroutine(running.server._nodes.refresh(node))
        await self.until(lambda: held)
        await admin.do("resize_disk", 1, 20)
        held[0].callback(None)
        await looking
        self.assertEqual((await admin.call("get_disk", 1))["size"], 20)
