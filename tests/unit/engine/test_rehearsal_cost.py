"""The limited cost of rehearsals: nothing in them loops or waits, because the server answers no other call meanwhile."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.web.client import Agent

from fluidvm.drivers.simulator.host import SimulatedHost
from fluidvm.engine import rehearsal
from fluidvm.engine.rehearsal_files import PlannedImages
from fluidvm.server import model
from fluidvm.wire.peer import Peer
from tests.support import Client, ServerCase
from tests.unit.model.test_xmlvalue import CALM

PER_TASK = 100
"""Steps that no task of a small fleet needs."""


class PlanCase(ServerCase):
    """A node with a running VM, and two disks of 2 TiB."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.there = self.serve("--image-urls", "http://images.example/")
        self.admin = await self.there.login()
        self.node = await self.admin.node()
        self.other = await self.admin.node("node2")
        self.vm = await self.admin.do("create_vm", {"name": "web", "compute_node": self.node, "disks": [{"size": 1}]})
        await self.admin.do("start_vm", self.vm)
        self.disk = await self.admin.do(
            "create_disk", {"name": "big", "size": 2**31 - 1, "format": "raw", "compute_node": self.node}
        )
        self.image = await self.admin.do("create_image", await self.small("small"), "os")

    async def small(self, name: str) -> int:
        return await self.admin.do("create_disk", {"name": name, "size": 1, "format": "raw", "compute_node": self.node})

    @property
    def rehearsals(self) -> Any:
        return self.there.server.dispatcher._services.rehearsals

    def count(self) -> list[int]:
        """Count queries of domains, and stop endless querying or reading."""
        looks, reads = [0], [0]
        look, read = SimulatedHost.domain, model._Model.read_volume

        def counted_read(model: Any, *arguments: Any) -> Deferred[bytes]:
            reads[0] += 1
            assert reads[0] < 1000, "a plan reads without end"
            return read(model, *arguments)

        self.patch(model._Model, "read_volume", counted_read)

        def counted(host: SimulatedHost, uuid: str) -> Any:
            looks[0] += 1
            assert looks[0] < 1000, "a plan looks without end"
            return look(host, uuid)

        self.patch(SimulatedHost, "domain", counted)
        return looks

    async def planned(self, client: Client | None = None) -> list[tuple[int, str]]:
        return [(task["code"], task["error"]) for task in await (client or self.admin).call("plan_tasks")]


class CostTests(PlanCase):
    async def test_a_guest_that_will_not_shut_down(self) -> None:
        looks = self.count()
        self.patch(SimulatedHost, "shutdown", lambda host, uuid: None)
        await self.admin.call("shutdown_vm", self.vm, 3600)
        ((code, words),) = await self.planned()
        self.assertEqual(code, 409)
        self.assertIn("didn't shut down within 3600 s", words)
        self.assertLess(looks[0], 20)

    async def test_a_saved_vm(self) -> None:
        for call in (("save_vm",), ("shutdown_vm",), ("start_vm",), ("set_vm_memory", 64), ("delete_vm",), ("restore_vm",)):
            await self.admin.call(call[0], self.vm, *call[1:])
        self.assertEqual([code for code, _ in await self.planned()], [0, 409, 409, 409, 409, 0])

    async def test_a_disks_bytes_are_not_read(self) -> None:
        self.count()
        self.there.server._images.most = 2**60
        await self.admin.call("create_image", self.disk, "all")
        steps = self.steps()
        self.assertEqual(await self.planned(), [(0, "")])
        self.assertLess(steps[0], PER_TASK)

    async def test_nothing_is_fetched(self) -> None:
        asked: list[Any] = []
        self.patch(Agent, "request", lambda self, *arguments: asked.append(arguments) or Deferred())
        spec = {"name": "x", "format": "raw", "url": "http://images.example/x", "sha256": "0" * 64}
        image = await self.admin.call("import_image", spec)
        await self.admin.call("create_disk", {"name": "d", "image": image, "compute_node": self.node})
        self.assertEqual(await self.planned(), [(0, ""), (0, "")])
        self.assertEqual(asked, [])

    def steps(self) -> list[int]:
        steps = [0]
        step = rehearsal.Effort.step

        def counted(effort: Any) -> None:
            steps[0] += 1
            step(effort)

        self.patch(rehearsal.Effort, "step", counted)
        return steps

    async def test_every_pending_task_has_a_limited_cost(self) -> None:
        vm, node, other, disk, image = self.vm, self.node, self.other, self.disk, self.image
        calls: list[tuple[Any, ...]] = [
            ("start_vm", vm),
            ("shutdown_vm", vm, 3600),
            ("stop_vm", vm),
            ("pause_vm", vm),
            ("resume_vm", vm),
            ("save_vm", vm),
            ("restore_vm", vm),
            ("reset_vm", vm),
            ("reboot_vm", vm),
            ("set_vm_memory", vm, 64),
            ("set_vm_vcpus", vm, 9),
            ("create_vm_snapshot", vm, "s"),
            ("revert_vm_snapshot", vm, 1),
            ("delete_vm_snapshot", vm, 1),
            ("clone_vm", vm, "c"),
            ("rebuild_vm", vm, image),
            ("delete_vm", vm),
            ("migrate_vm", vm, other),
            ("migrate_vm", vm, other, {"live": True, "copy_storage": True}),
            ("evacuate_compute_node", node),
            ("evacuate_compute_node", other),
            ("refresh_compute_node", node),
            ("set_compute_node_mode", other, "active"),
            ("attach_disk", vm, disk),
            ("detach_disk", vm, disk),
            ("clone_disk", disk, "e"),
            ("resize_disk", disk, 2**31 - 1),
            ("create_image", disk, "i"),
            ("create_disk", {"name": "f", "image": image}),
            ("delete_disk", disk),
            ("create_vm", {"name": "v", "disks": [{"image": image}]}),
            ("create_disk_snapshot", disk, "s"),
            ("attach_interface", vm, {"network": "default"}),
            ("add_compute_node", "n3", "simulator", ""),
            ("remove_compute_node", other),
            ("create_user", "u", "a long password"),
        ]
        self.count()
        steps = self.steps()
        before = await self.everything()
        pending: list[list[tuple[Any, ...]]] = []

        @settings(CALM, max_examples=40, database=None)
        @given(st.lists(st.sampled_from(calls), min_size=1, max_size=12))
        def draw(some: list[tuple[Any, ...]]) -> None:
            pending.append(some)

        draw()
        for some in pending:
            for method, *arguments in some:
                try:
                    await self.admin.call(method, *arguments)
                except xmlrpc.client.Fault as fault:
                    self.assertIn(fault.faultCode, (404, 409))
            steps[0] = 0
            told = await self.planned()
            self.assertLess(steps[0], PER_TASK * (1 + len(some)), some)
            self.assertNotIn(-32603, [code for code, _ in told], (some, told))
            await self.admin.call("discard_tasks")
        self.assertEqual(await self.everything(), before)

    async def everything(self) -> list[Any]:
        return [await self.admin.call(name) for name in ("list_vms", "list_disks", "list_compute_nodes", "list_images")]


class BoundTests(PlanCase):
    async def pending(self) -> None:
        for number in range(10):
            await self.admin.call("create_vm", {"name": f"vm{number}", "compute_node": self.node})

    async def test_steps(self) -> None:
        await self.pending()
        self.patch(rehearsal, "MOST_STEPS", 12)
        told = await self.planned()
        codes = [code for code, _ in told]
        self.assertEqual(codes, [0] * codes.count(0) + [413] * codes.count(413))
        self.assertGreater(codes.count(0), 0)
        self.assertGreater(codes.count(413), 0)
        self.assertIn("plan fewer tasks", told[-1][1])
        self.patch(rehearsal, "MOST_STEPS", 1000)
        self.assertEqual([code for code, _ in await self.planned()], [0] * 10)

    async def test_time(self) -> None:
        await self.pending()
        now = [0.0]

        def spent() -> float:
            now[0] += 0.01
            return now[0]

        self.rehearsals._spent = spent
        self.patch(rehearsal, "LONGEST", 0.15)
        codes = [code for code, _ in await self.planned()]
        self.assertEqual((codes[0], codes[-1]), (0, 413))
        self.assertEqual([vm["name"] for vm in await self.admin.call("list_vms")], ["web"])

    async def test_one_user_plans_again_and_again(self) -> None:
        """Others have most of the processor for themselves."""
        alice = await self.admin.user("alice")
        await self.pending()
        now = [0.0]

        def spent() -> float:
            now[0] += 0.001
            return now[0]

        self.rehearsals._spent = spent
        self.rehearsals._turn = lambda: succeed(None)
        self.patch(rehearsal, "SAVED", 0.1)
        running, planned = self.admin.running, 0
        waiting = Deferred.fromCoroutine(self.planned())
        while waiting.called and planned < 100:
            planned += 1
            waiting = Deferred.fromCoroutine(self.planned())
        self.assertFalse(waiting.called)
        self.assertEqual([code for code, _ in await self.planned(alice)], [])
        before = running.clock.seconds()
        while not waiting.called:
            running.clock.advance(0.05)
        self.assertGreater(running.clock.seconds() - before, 0.05)
        self.assertEqual([code for code, _ in await waiting], [0] * 10)

    async def test_a_node_with_very_many_disks(self) -> None:
        """Disks that are copied for the model count, too."""
        for number in range(30):
            await self.small(f"d{number}")
        self.patch(rehearsal, "MOST_STEPS", 20)
        await self.admin.call("stop_vm", self.vm)
        self.assertEqual([code for code, _ in await self.planned()], [413])

    async def test_other_clients_get_their_turns(self) -> None:
        """Also between several plan_tasks of one boxcar."""
        turns: list[Deferred[None]] = []
        self.rehearsals._turn = lambda: turns.append(Deferred()) or turns[-1]
        call = {"methodName": "plan_tasks", "params": [self.admin.cookie]}
        body = xmlrpc.client.dumps(([call] * 3,), "system.multicall").encode()
        answering: Any = self.there.server.dispatcher.dispatch(body, Peer(self.admin.address))
        again: Any = self.there.server.dispatcher.dispatch(body, Peer(self.admin.address))
        for place in range(6):
            self.assertEqual(len(turns), place + 1)  # one at a time
            self.assertFalse(answering.called and again.called)
            turns[place].callback(None)
        for answer in (answering, again):
            self.assertEqual(xmlrpc.client.loads(await answer)[0][0], [[[]]] * 3)

    async def test_a_task_that_waits(self) -> None:
        self.patch(PlannedImages, "check", lambda *arguments: Deferred())
        await self.admin.call("create_disk", {"name": "d", "image": self.image, "compute_node": self.node})
        await self.admin.call("stop_vm", self.vm)
        self.assertEqual(await self.planned(), [(503, "plan_tasks can't predict what create_disk waits for."), (0, "")])
