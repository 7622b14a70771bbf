"""An OpenVZ node behind a whole server, spoken to as clients do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.fakes.vz.node import FakeNode
from tests.support import Client, Running, ServerCase

from .vz_factory import node_options


class OpenVzServerTests(ServerCase):
    timeout = 60

    async def do(self, running: Running, client: Client, *calls: tuple[Any, ...]) -> tuple[list[int], list[str]]:
        """Run a batch of tasks. Gives what they act on, and their errors."""
        targets = [await client.call(*call) for call in calls]
        ec = await client.call("commit_tasks")
        while any(await client.call("get_task_state", ec)):
            # Real commands take real time.
            running.clock.advance(0.01)
            await deferLater(reactor, 0.01, lambda: None)
        return targets, await client.call("get_errors", ec)

    async def test_a_container_s_life(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = FakeNode(Path(self.mktemp()))
        (id,), errors = await self.do(running, admin, ("add_compute_node", "vz1", "openvz", "", node_options(node)))
        self.assertEqual(errors, [""])
        self.assertEqual((await admin.call("get_compute_node", id))["state"], "online")

        spec = {"name": "web", "memory": 128, "max_memory": 256, "compute_node": id, "autostart": True}
        (vm,), errors = await self.do(running, admin, ("create_vm", spec))
        self.assertEqual(errors, [""])
        _, errors = await self.do(running, admin, ("start_vm", vm), ("set_vm_memory", vm, 256), ("pause_vm", vm))
        self.assertEqual(errors, ["", "", ""])
        told = await admin.call("get_vm", vm)
        self.assertEqual((told["state"], told["memory"], told["driver"]), ("paused", 256, "openvz"))
        conf = node.conf(node.ctid(told["uuid"]))
        self.assertIn('PHYSPAGES="0:65536"', conf)
        self.assertIn('ONBOOT="yes"', conf)

        # A container has no disks: what asks for one is told so.
        _, errors = await self.do(running, admin, ("create_vm", {**spec, "name": "db", "disks": [{"size": 16}]}))
        self.assertIn("Disks", errors[0])
        _, errors = await self.do(running, admin, ("resume_vm", vm), ("shutdown_vm", vm), ("delete_vm", vm))
        self.assertEqual(errors, ["", "", ""])
        self.assertEqual(node.leftovers(), [])
