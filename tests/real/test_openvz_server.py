"""An OpenVZ node behind a whole server, spoken to as clients do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.fakes.vz.node import FakeNode
from tests.real.vz_factory import node_options, upstream_options
from tests.support import Client, Running, ServerCase


class OpenVzServerTests(ServerCase):
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

        # The longest name that a VM can have.
        (long,), errors = await self.do(running, admin, ("create_vm", {**spec, "name": "v" * 63}))
        self.assertEqual(errors, [""])
        await self.do(running, admin, ("delete_vm", long))

        # A container has no disks: what asks for one is told so.
        _, errors = await self.do(running, admin, ("create_vm", {**spec, "name": "db", "disks": [{"size": 16}]}))
        self.assertIn("Disks", errors[0])
        _, errors = await self.do(running, admin, ("resume_vm", vm), ("shutdown_vm", vm), ("delete_vm", vm))
        self.assertEqual(errors, ["", "", ""])
        self.assertEqual(node.leftovers(), [])

    async def test_a_saved_container(self) -> None:
        """It has no guest that could be asked, and its faults call it what its owner does."""
        running = self.serve()
        admin = await running.login()
        node = FakeNode(Path(self.mktemp()))
        (id,), _ = await self.do(running, admin, ("add_compute_node", "vz1", "openvz", "", node_options(node)))
        (vm,), _ = await self.do(running, admin, ("create_vm", {"name": "web", "memory": 128, "compute_node": id}))
        calls = [
            ("start_vm", vm),
            ("save_vm", vm),
            ("shutdown_vm", vm),
            ("resume_vm", vm),
            ("stop_vm", vm),
            ("delete_vm", vm),
        ]
        _, errors = await self.do(running, admin, *calls)
        saved = "VM web is saved: restore_vm continues it, stop_vm discards the saved state."
        self.assertEqual(errors, ["", "", saved, "VM web is saved: it can be resumed only while it is paused.", "", ""])
        self.assertEqual(node.leftovers(), [])

    async def test_what_a_container_is_told(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = FakeNode(Path(self.mktemp()))
        (id,), _ = await self.do(running, admin, ("add_compute_node", "vz1", "openvz", "", node_options(node)))
        templates = await self.answer(running, admin, "list_templates", id)
        self.assertEqual(templates, ["busybox-1-x86_64", "debian-12-x86_64"])
        spec = {"name": "web", "memory": 128, "compute_node": id, "template": templates[1]}
        (vm,), _ = await self.do(running, admin, ("create_vm", spec))
        _, errors = await self.do(
            running,
            admin,
            ("start_vm", vm),
            ("add_vm_address", vm, "192.0.2.7/24"),
            ("set_vm_hostname", vm, "www.example.org"),
            ("set_vm_nameservers", vm, ["192.0.2.53"], ["example.org"]),
            ("set_vm_limits", vm, {"swap": 64, "cpu_limit": 50}),
            ("add_vm_ssh_key", vm, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA7cUXVEPbjTQ9a9zHYwBh3VfQ5T4hBZ0b3l3X0m2Fqk me"),
            ("run_in_vm", vm, ["echo", "it's", "$HOME"]),
            ("create_vm_snapshot", vm, "before"),
        )
        self.assertEqual(errors[:7], 7 * [""])
        (context,) = await admin.call("list_execution_contexts", {"limit": 1})
        self.assertEqual(context["results"][6], {"code": 0, "stdout": "it's $HOME\n", "stderr": ""})
        told = await self.answer(running, admin, "get_vm_settings", vm)
        self.assertEqual((told["addresses"], told["hostname"]), (["192.0.2.7/24"], "www.example.org"))
        self.assertEqual((told["nameservers"], told["search_domains"]), (["192.0.2.53"], ["example.org"]))
        self.assertEqual((told["swap"], told["cpu_limit"]), (64, 50))
        self.assertIs(await self.answer(running, admin, "set_vm_password", vm, "root", "it's $ecret"), True)
        ctid = node.ctid((await admin.call("get_vm", vm))["uuid"])
        self.assertEqual((node.root / "vz/private" / ctid / "fs/etc/passwords").read_text(), "root:it's $ecret\n")
        _, errors = await self.do(running, admin, ("stop_vm", vm), ("clone_vm", vm, "copy"), ("delete_vm", vm))
        self.assertEqual((errors[0], "can't copy" in errors[1], errors[2]), ("", True, ""))
        self.assertEqual(node.leftovers(), [])

    async def test_a_guest_that_boots_is_shut_down_when_it_can_be(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = FakeNode(Path(self.mktemp()))
        (id,), _ = await self.do(running, admin, ("add_compute_node", "vz1", "openvz", "", node_options(node)))
        (vm,), _ = await self.do(running, admin, ("create_vm", {"name": "web", "memory": 128, "compute_node": id}))
        await self.do(running, admin, ("start_vm", vm))
        ctid = node.ctid((await admin.call("get_vm", vm))["uuid"])
        node.have(ctid, "booting")

        def boot() -> None:
            (node.root / "run" / ctid / "booting").unlink()
            node.have(ctid, "fast")

        running.clock.callLater(3.0, boot)
        _, errors = await self.do(running, admin, ("shutdown_vm", vm, 3600))
        self.assertEqual(errors, [""])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")

    async def test_a_plan_with_rates_on_a_kernel_that_has_none(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = FakeNode(Path(self.mktemp()))
        node.upstream()
        options = node_options(node) | upstream_options(node)
        (id, plan), _ = await self.do(
            running,
            admin,
            ("add_compute_node", "vz1", "openvz", "", options),
            ("create_resource_plan", "small", {"disk_iops": 100, "disk_mbps": 10, "cpu_shares": 512}),
        )
        (user,), _ = await self.do(running, admin, ("create_user", "bob", "a long password", {"resource_plan": plan}))
        (vm,), errors = await self.do(
            running, admin, ("create_vm", {"name": "web", "memory": 128, "compute_node": id, "owner": user})
        )
        self.assertEqual(errors, [""])
        _, errors = await self.do(running, admin, ("start_vm", vm))
        self.assertEqual(errors, [""])
        ctid = node.ctid((await admin.call("get_vm", vm))["uuid"])
        self.assertEqual(node.bound(ctid), 128)
        self.assertIn('CPUUNITS="500"', node.conf(ctid))

    async def answer(self, running: Running, client: Client, *call: Any) -> Any:
        """Call a method that asks the node."""
        answers: list[Any] = []
        Deferred.fromCoroutine(client.call(*call)).addBoth(answers.append)
        while not answers:
            running.clock.advance(0.01)
            await deferLater(reactor, 0.01, lambda: None)
        return answers[0]
