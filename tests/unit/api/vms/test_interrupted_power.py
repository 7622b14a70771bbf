"""Interrupted starts and stops: afterwards the server reports the VM's real state in every case."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail

from fluidvm.driver import DriverError
from fluidvm.drivers.simulator.driver import SimulatedConnection
from tests.support import Client, ServerCase

SLOW = 30.0
"""Seconds that a verb takes: longer than a stopping server waits for it."""


class InterruptedPowerTests(ServerCase):
    async def interrupt(self, admin: Client, state: str, *task: Any) -> tuple[Client, int]:
        """
        Restart the server while a task on VM 1 is running.

        @param state: the state of the VM that the server reports then.
        @return: the administrator, and the context.
        """
        await admin.call(*task)
        ec = await admin.call("commit_tasks")
        while (await admin.call("get_vm", 1))["state"] != state:
            await admin.running.pass_time(0.25)
        return await (await self.restart(admin.running)).login(), ec

    async def test_a_start_on_a_node_that_is_in_maintenance_after_the_restart(self) -> None:
        admin = await self.serve().login()
        node = await admin.node(delay=SLOW)
        await admin.do("create_vm", {"name": "a"})
        admin, ec = await self.interrupt(admin, "starting", "start_vm", 1)
        await admin.do("set_compute_node_mode", node, "maintenance")
        await admin.finish(ec)
        self.assertIn("in mode maintenance", (await admin.call("get_errors", ec))[0])
        self.assertEqual((await admin.call("get_vm", 1))["state"], "stopped")

    async def test_a_restore_on_a_node_that_is_in_maintenance_after_the_restart(self) -> None:
        admin = await self.serve().login()
        node = await admin.node(delay=SLOW)
        await admin.do("create_vm", {"name": "a"})
        await admin.do("start_vm", 1)
        await admin.do("save_vm", 1)
        admin, ec = await self.interrupt(admin, "starting", "restore_vm", 1)
        await admin.do("set_compute_node_mode", node, "maintenance")
        await admin.finish(ec)
        self.assertIn("in mode maintenance", (await admin.call("get_errors", ec))[0])
        self.assertEqual((await admin.call("get_vm", 1))["state"], "saved")

    async def test_a_shutdown_that_fails_the_second_time(self) -> None:
        admin = await self.serve().login()
        await admin.node(deaf=True, delay=0.5)
        await admin.do("create_vm", {"name": "a"})
        await admin.do("start_vm", 1)

        def refuse(connection: SimulatedConnection, uuid: str) -> Deferred[None]:
            return fail(DriverError("The guest's agent is gone."))

        await admin.call("shutdown_vm", 1, 600)
        ec = await admin.call("commit_tasks")
        while (await admin.call("get_vm", 1))["state"] != "stopping":
            await admin.running.pass_time(0.25)
        await admin.running.stop()
        self.running.clear()
        self.patch(SimulatedConnection, "shutdown", refuse)
        admin = await self.serve().login()
        await admin.finish(ec)
        self.assertIn("agent is gone", (await admin.call("get_errors", ec))[0])
        self.assertEqual((await admin.call("get_vm", 1))["state"], "running")

    async def test_a_task_that_had_started_runs_first(self) -> None:
        """A task of an older context waits for the VM that is being started, so it doesn't find it half started."""
        admin = await self.serve().login()
        one, two = await admin.node("one", delay=SLOW), await admin.node("two", delay=1.0)
        await admin.do("create_vm", {"name": "a", "compute_node": one})
        await admin.do("create_vm", {"name": "b", "compute_node": two})
        await admin.call("start_vm", 2)
        await admin.call("migrate_vm", 1, two, {"live": True})
        waiting = await admin.call("commit_tasks")
        admin, ec = await self.interrupt(admin, "starting", "start_vm", 1)
        for context in (ec, waiting):
            await admin.finish(context)
        self.assertEqual(await admin.call("get_errors", ec), [""])
        self.assertEqual(await admin.call("get_errors", waiting), ["", ""])
        vm = await admin.call("get_vm", 1)
        self.assertEqual((vm["compute_node"], vm["state"]), (two, "running"))
