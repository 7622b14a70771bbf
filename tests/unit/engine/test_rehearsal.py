"""C{plan_tasks} predicts the outcome: random batches in a random fleet are planned, then committed with no other client."""

from __future__ import annotations

import os
import re
import xmlrpc.client
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.drivers.simulator.driver import SimulatorDriver
from fluidvm.engine import rehearsal
from fluidvm.engine.job import Job
from fluidvm.images.files import MIB
from tests.databases import ENGINE
from tests.inline import InlineServer
from tests.unit.api.storage.test_images import WHOLE, ImageCase, qcow2
from tests.unit.engine.fleet import ACTORS
from tests.unit.engine.random_calls import TASKS, RandomCalls

EXAMPLES = int(os.environ.get("FLUIDVM_PLANS", 20 if ENGINE == "sqlite" else 6))
BATCHES, LONGEST = 5, 8
UNKNOWN = "The abilities of compute node "
"""The beginning of the predicted error for a node that doesn't exist yet."""


def plain(error: str) -> str:
    """An error without its random parts: volumes' names and UUIDs."""
    return re.sub(r"[0-9a-f]{8,12}", "*", error)


class Rehearsal:
    """One example: a fleet, and batches in it, each planned and then committed."""

    def __init__(self, server: InlineServer, choose: Callable[[int], int]) -> None:
        self._server = server
        self.fleet = RandomCalls(server, choose)
        self._asked: dict[Any, int] = {}

    def run(self) -> None:
        connect = self.fleet.connect(SimulatorDriver.connect)
        watched = patch.object(Job, "connection", self._watched())
        # Here, the time that a plan takes depends only on how busy the machine is.
        with patch.object(SimulatorDriver, "connect", connect), watched, patch.object(rehearsal, "LONGEST", 60.0):
            self.fleet.build()
            for _ in range(BATCHES):
                for _ in range(self.fleet.one((0, 1, 2))):
                    self.fleet.meddle()
                self._batch()

    def _watched(self) -> Any:
        """Record the compute node that a task requested last."""
        asked, original = self._asked, Job.connection

        async def connection(job: Job, node: int, *ability: Any) -> Any:
            asked[job._key] = node
            return await original(job, node, *ability)

        return connection

    def _batch(self) -> None:
        try:
            cookie = self._server.login(self.fleet.one(ACTORS))
        except xmlrpc.client.Fault:
            return  # the user was deleted or disabled
        calls: list[tuple[Any, ...]] = []
        for _ in range(3 * LONGEST):
            if len(calls) == LONGEST:
                break
            call = self.fleet.random_call()
            try:
                self.fleet.queue(cookie, *call)
            except xmlrpc.client.Fault as fault:
                assert fault.faultCode in (401, 403, 404, 409, -32602), (call, fault)
            else:
                calls.append(call)
        before = self.fleet.all()
        foretold = self._server.call("plan_tasks", cookie)
        assert self.fleet.all() == before, "a plan has changed something"
        ec = self.fleet.commit(cookie)
        for call, planned, task in zip(calls, foretold, self.fleet.context(ec).tasks, strict=True):
            key = (ec, planned["task"] - 1)
            node = call[1] if call[0] == "refresh_compute_node" else self._asked.get(key)
            words = plain(planned["error"])
            came = (task.row.code, node, words if words.startswith(UNKNOWN) else plain(task.row.error))
            assert (planned["code"], planned.get("node"), words) == came, (
                f"{call}: foretold {planned}, came {came}: {task.row.error!r}; all: {calls}"
            )


class RehearsalTests(SynchronousTestCase):
    def test_the_prediction_matches_the_outcome(self) -> None:
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def try_some(data: st.DataObject) -> None:
            server = InlineServer()
            try:
                Rehearsal(server, lambda most: data.draw(st.integers(0, most - 1))).run()
            finally:
                server.stop()

        try_some()

    def test_random_calls_cover_every_task_method(self) -> None:
        self.assertEqual([name for name in TASKS if not hasattr(RandomCalls, f"_{name}")], [])


class KnownTests(ImageCase):
    """Cases that random batches rarely reach."""

    async def same(self, *calls: tuple[Any, ...]) -> list[int]:
        """Plan and commit a batch, and compare prediction and outcome. @return: the codes."""
        for method, *arguments in calls:
            await self.admin.call(method, *arguments)
        foretold = [(task["code"], task["error"]) for task in await self.admin.call("plan_tasks")]
        context = await self.admin.call("get_execution_context", await self.admin.commit())
        codes = [task["code"] for task in context["tasks"]]
        self.assertEqual(foretold, list(zip(codes, context["errors"], strict=True)))
        return codes

    async def test_a_snapshot_of_other_amounts(self) -> None:
        vm = await self.admin.do("create_vm", {"name": "web", "memory": 64, "max_memory": 128})
        await self.admin.do("start_vm", vm)
        self.assertEqual(await self.same(("create_vm_snapshot", vm, "before")), [0])
        await self.admin.do("set_vm_memory", vm, 100)
        revert = ("revert_vm_snapshot", vm, 1)
        self.assertEqual(await self.same(revert, ("set_vm_memory", vm, 64), revert), [409, 0, 0])
        await self.admin.do("refresh_compute_node", self.node)  # the node reports its snapshots again
        await self.admin.do("attach_interface", vm, {"network": "lan"})
        self.assertEqual(await self.same(revert), [409])

    async def test_uploads(self) -> None:
        await self.admin.do("create_resource_plan", "small", {"disk_space": 12})
        await self.admin.do("set_user_resource_plan", 1, 1)
        await self.upload(WHOLE)  # takes 7 MiB
        await self.upload(qcow2(4 * MIB), "other")

        def image(upload: str, format: str = "raw", name: str = "os") -> tuple[str, dict[str, str]]:
            return "import_image", {"name": f"{upload}-{name}", "format": format, "upload": upload}

        codes = await self.same(
            image("none"),
            image("up", "qcow2"),
            image("up"),
            image("up", name="again"),
            image("other", "qcow2"),
            ("create_disk", {"name": "small", "size": 3, "image": 5}),
            ("create_disk", {"name": "fits", "image": 5}),
        )
        self.assertEqual(codes, [404, 409, 0, 404, 0, 409, 0])

    async def test_images_of_disks(self) -> None:
        for format in ("raw", "qcow2"):
            disk = await self.admin.do("create_disk", {"name": format, "size": 3, "format": format})
            copy = await self.admin.call("create_image", disk, format)
            wanted = {"name": f"less-{format}", "size": 2, "image": copy}
            self.assertEqual(await self.same(("create_disk", wanted)), [0, 409])
        self.files.most = 2 * MIB
        self.assertEqual(await self.same(("create_image", 1, "large")), [409])
