"""Snapshots of VMs: creation, revert, deletion, quotas, and recovery."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from fluidvm.driver import DomainDisk, DomainInfo, DomainState
from fluidvm.drivers.simulator.snapshots import Snapshots
from tests.support import Client, Running, ServerCase
from tests.unit.api.accounts.test_plans import QuotaCase
from tests.unit.api.nodes.test_nodes import simulated


async def make(client: Client, vm: int, name: str) -> int:
    """Create a snapshot. Returns its id."""
    await client.call("create_vm_snapshot", vm, name)
    ec = await client.commit()
    (error,), (result,) = await client.call("get_errors", ec), await client.call("get_results", ec)
    if error:
        raise AssertionError(error)
    return int(result)


async def names(client: Client, vm: int) -> list[str]:
    """The names of a VM's snapshots."""
    return [one["name"] for one in await client.call("list_vm_snapshots", vm)]


class SnapshotTests(ServerCase):
    async def start(self, **options: Any) -> tuple[Running, Client, int]:
        """A stopped VM with a disk."""
        running = self.serve()
        admin = await running.login()
        await admin.node(**options)
        return running, admin, await admin.do("create_vm", {"name": "one", "disks": [{"size": 10}], "max_vcpus": 4})

    async def test_created_and_reverted_to(self) -> None:
        _, admin, vm = await self.start()
        off = await make(admin, vm, "off")
        await admin.do("start_vm", vm)
        await admin.call("ping")
        on = await make(admin, vm, "on")
        self.assertIn(("vm", vm, "updated"), [(one["type"], one["id"], one["change"]) for one in await admin.call("ping")])
        self.assertEqual((await admin.call("get_vm", vm))["snapshots"], 2)
        told = await admin.call("list_vm_snapshots", vm)
        self.assertEqual(
            [(one["id"], one["vm"], one["name"], one["running"]) for one in told],
            [(off, vm, "off", False), (on, vm, "on", True)],
        )
        self.assertEqual(await admin.call("list_vm_snapshots", vm, {"running": True, "fields": ["name"]}), [{"name": "on"}])
        self.assertEqual(await admin.call("list_vm_snapshots", vm, {"after": off, "limit": 1}), told[1:])
        self.assertEqual(await admin.call("list_vm_snapshots", vm, {"limit": 1}), told[:1])
        for snapshot, state in ((off, "stopped"), (on, "running"), (on, "running"), (off, "stopped")):
            await admin.do("revert_vm_snapshot", vm, snapshot)
            self.assertEqual((await admin.call("get_vm", vm))["state"], state)
        await admin.do("delete_vm_snapshot", vm, off)
        self.assertEqual(await names(admin, vm), ["on"])
        for method in ("revert_vm_snapshot", "delete_vm_snapshot"):
            self.assertEqual((await admin.fail(method, vm, off))[0], 404)
        code, words = await admin.fail("create_vm_snapshot", vm, "on")
        self.assertEqual((code, "already has a snapshot named on" in words), (409, True), words)
        self.assertGreater(await make(admin, vm, "off"), on, "ids aren't reused")

    async def test_a_batch_replaces_one(self) -> None:
        _, admin, vm = await self.start()
        old = await make(admin, vm, "nightly")
        await admin.call("delete_vm_snapshot", vm, old)
        await admin.call("create_vm_snapshot", vm, "nightly")
        await admin.commit()
        (told,) = await admin.call("list_vm_snapshots", vm)
        self.assertEqual((told["name"], told["id"] > old), ("nightly", True))

    async def test_names_are_unique_per_vm(self) -> None:
        _, admin, vm = await self.start()
        other = await admin.do("create_vm", {"name": "two"})
        await make(admin, vm, "same")
        snapshot = await make(admin, other, "same")
        self.assertEqual((await admin.fail("revert_vm_snapshot", vm, snapshot))[0], 404)
        await self.refused(-32602, admin.call("create_vm_snapshot", vm, "../x"))
        await self.refused(-32602, admin.call("create_vm_snapshot", vm, ""))

    async def test_who_may(self) -> None:
        _, admin, vm = await self.start()
        snapshot = await make(admin, vm, "hers")
        alice, auditor = await admin.user("alice"), await admin.user("bob", "auditor")
        await self.refused(404, alice.call("list_vm_snapshots", vm))
        await self.refused(404, alice.call("create_vm_snapshot", vm, "mine"))
        await self.refused(404, alice.call("revert_vm_snapshot", vm, snapshot))
        self.assertEqual(await names(auditor, vm), ["hers"])
        await self.refused(403, auditor.call("delete_vm_snapshot", vm, snapshot))
        await admin.do("set_vm_owner", vm, 2)
        self.assertEqual(await names(alice, vm), ["hers"])
        await alice.do("delete_vm_snapshot", vm, snapshot)

    async def test_states_without_snapshots(self) -> None:
        _, admin, vm = await self.start()
        await admin.do("start_vm", vm)
        snapshot = await make(admin, vm, "on")
        for method, state in (("pause_vm", "paused"), ("save_vm", "saved")):
            await admin.do(method, vm)
            self.assertEqual((await admin.fail("create_vm_snapshot", vm, "new"))[0], 409)
            self.assertEqual((await admin.fail("revert_vm_snapshot", vm, snapshot))[0], 409)
            self.assertEqual((await admin.call("get_vm", vm))["state"], state)
        await admin.do("restore_vm", vm)
        self.assertEqual(await names(admin, vm), ["on"])

    async def test_a_disk_whose_format_has_no_snapshots(self) -> None:
        _, admin, _ = await self.start()
        vm = await admin.do("create_vm", {"name": "raw", "disks": [{"size": 1, "format": "raw"}]})
        code, words = await admin.fail("create_vm_snapshot", vm, "one")
        self.assertEqual((code, "vda" in words), (501, True), words)
        self.assertEqual(await names(admin, vm), [])

    async def test_what_changed_since(self) -> None:
        _, admin, vm = await self.start()
        off = await make(admin, vm, "off")
        await admin.do("start_vm", vm)
        on = await make(admin, vm, "on")
        await admin.do("set_vm_vcpus", vm, 2)
        code, words = await admin.fail("revert_vm_snapshot", vm, on)
        self.assertEqual((code, "vcpus" in words), (409, True), words)
        shown = await admin.call("get_vm", vm)
        self.assertEqual((shown["state"], shown["vcpus"]), ("running", 2))
        await admin.do("revert_vm_snapshot", vm, off)
        shown = await admin.call("get_vm", vm)
        self.assertEqual((shown["state"], shown["vcpus"]), ("stopped", 2), "the definition doesn't change")
        await admin.do("set_vm_vcpus", vm, 1)
        await admin.do("revert_vm_snapshot", vm, on)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")

    async def test_what_snapshots_forbid(self) -> None:
        _, admin, vm = await self.start()
        second = await admin.node("node2")
        (disk,) = (await admin.call("get_vm", vm))["disks"]
        spare = await admin.do("create_disk", {"name": "spare", "size": 1, "compute_node": 1})
        snapshot = await make(admin, vm, "one")
        forbidden: list[tuple[Any, ...]] = [
            ("attach_disk", vm, spare),
            ("detach_disk", vm, disk),
            ("resize_disk", disk, 20),
            ("migrate_vm", vm, second, {"copy_storage": True}),
        ]
        for method, *arguments in forbidden:
            code, words = await admin.fail(method, *arguments)
            self.assertEqual((code, "delete_vm_snapshot" in words), (409, True), (method, words))
        code, words = await admin.fail("evacuate_compute_node", 1)
        self.assertEqual((code, "has snapshots (one)" in words), (409, True), words)
        await admin.do("set_compute_node_mode", 1, "active")
        copy = await admin.do("clone_vm", vm, "copy")
        self.assertEqual(((await admin.call("get_vm", copy))["snapshots"], await names(admin, copy)), (0, []))
        await admin.do("clone_disk", disk, "copied")
        await admin.do("delete_vm_snapshot", vm, snapshot)
        for method, *arguments in [*forbidden[:1], *forbidden[2:]]:
            if method == "migrate_vm":
                await admin.do("detach_disk", vm, spare)
            await admin.do(method, *arguments)

    async def test_deleted_with_the_vm(self) -> None:
        running, admin, vm = await self.start()
        host = simulated(running, 1)
        (domain,) = host.domains()
        for name in ("one", "two"):
            await make(admin, vm, name)
        await admin.do("delete_vm", vm, {"keep_disks": True})
        self.assertEqual((host.kept(domain.uuid), host.domains()), ([], []))
        self.assertEqual((await admin.call("get_user_usage", 1))["snapshots"]["used"], 0)
        vm = await admin.do("create_vm", {"name": "two", "disks": [{"size": 1}]})
        await make(admin, vm, "one")
        await admin.do("delete_vm", vm)
        self.assertEqual((await admin.call("get_user_usage", 1))["snapshots"]["used"], 0)

    async def test_a_hypervisor_that_fails(self) -> None:
        _, admin, _ = await self.start()
        made: dict[str, tuple[int, int]] = {}
        for verb in ("create_snapshot", "revert_snapshot", "delete_snapshot"):
            node = await admin.node(verb, fail=[verb])
            vm = await admin.do("create_vm", {"name": verb, "compute_node": node})
            if verb == "create_snapshot":
                self.assertEqual((await admin.fail("create_vm_snapshot", vm, "one"))[0], 503)
                self.assertEqual((await names(admin, vm), await self.used(admin)), ([], 0))
            else:
                made[verb] = vm, await make(admin, vm, "one")
        self.assertEqual((await admin.fail("revert_vm_snapshot", *made["revert_snapshot"]))[0], 503)
        self.assertEqual((await admin.call("get_vm", made["revert_snapshot"][0]))["state"], "stopped")
        self.assertEqual((await admin.fail("delete_vm_snapshot", *made["delete_snapshot"]))[0], 503)
        self.assertEqual(await names(admin, made["delete_snapshot"][0]), ["one"])
        self.assertEqual(await self.used(admin), 2)

    async def used(self, admin: Client) -> int:
        """The number of snapshots that the administrator has."""
        return int((await admin.call("get_user_usage", 1))["snapshots"]["used"])

    async def test_planned(self) -> None:
        _, admin, vm = await self.start()
        snapshot = await make(admin, vm, "one")
        calls: list[tuple[int, str, tuple[Any, ...]]] = [
            (409, "create_vm_snapshot", (vm, "one")),
            (0, "create_vm_snapshot", (vm, "two")),
            (409, "resize_disk", ((await admin.call("get_vm", vm))["disks"][0], 20)),
            (0, "revert_vm_snapshot", (vm, snapshot)),
            (0, "delete_vm_snapshot", (vm, snapshot)),
            (404, "revert_vm_snapshot", (vm, snapshot)),
            (0, "create_vm_snapshot", (vm, "one")),
        ]
        for _, method, arguments in calls:
            await admin.call(method, *arguments)
        planned = await admin.call("plan_tasks")
        self.assertEqual([line["code"] for line in planned], [code for code, _, _ in calls])
        self.assertEqual(await names(admin, vm), ["one"], "nothing has changed")
        ec = await admin.commit()
        codes = [task["code"] for task in (await admin.call("get_execution_context", ec))["tasks"]]
        self.assertEqual(codes, [code for code, _, _ in calls])

    async def test_maintenance(self) -> None:
        _, admin, vm = await self.start()
        await admin.do("start_vm", vm)
        snapshot = await make(admin, vm, "on")
        await admin.do("stop_vm", vm)
        await admin.do("set_compute_node_mode", 1, "maintenance")
        code, words = await admin.fail("revert_vm_snapshot", vm, snapshot)
        self.assertEqual((code, "maintenance" in words), (409, True), words)


class BehindTests(ServerCase):
    """Changes made directly on the compute node."""

    async def start(self) -> tuple[Running, Client, int, Snapshots, str]:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "one", "disks": [{"size": 1}]})
        host = simulated(running, 1)
        return running, admin, vm, Snapshots(host), host.domains()[0].uuid

    async def test_created_and_removed_on_the_node(self) -> None:
        _, admin, vm, snapshots, uuid = await self.start()
        mine = await make(admin, vm, "mine")
        snapshots.create(uuid, "their own")
        await admin.call("ping")
        await admin.do("refresh_compute_node", 1)
        self.assertIn(("vm", vm, "updated"), [(one["type"], one["id"], one["change"]) for one in await admin.call("ping")])
        told = {one["name"]: one["id"] for one in await admin.call("list_vm_snapshots", vm)}
        self.assertEqual((list(told), told["mine"]), (["mine", "their own"], mine))
        self.assertEqual((await admin.call("get_user_usage", 1))["snapshots"]["used"], 2)
        await admin.do("revert_vm_snapshot", vm, told["their own"])
        snapshots.delete(uuid, "mine")
        await admin.do("refresh_compute_node", 1)
        self.assertEqual(await names(admin, vm), ["their own"])
        await admin.do("delete_vm_snapshot", vm, told["their own"])
        self.assertEqual(snapshots.of(uuid), [])

    async def test_found_after_a_reconnect(self) -> None:
        running, admin, vm, snapshots, uuid = await self.start()
        snapshots.create(uuid, "theirs")
        simulated(running, 1).cut("the cable was pulled")
        for _ in range(4):
            await running.pass_time(1)
        await self.until(lambda: running.server.inventory.vms_on(1)[0].snapshots)
        self.assertEqual(await names(admin, vm), ["theirs"])

    async def test_snapshots_that_a_task_finds_count(self) -> None:
        """Even before the server has read them otherwise."""
        _, admin, vm, snapshots, uuid = await self.start()
        snapshots.create(uuid, "theirs")
        code, words = await admin.fail("create_vm_snapshot", vm, "theirs")
        self.assertEqual((code, "already has a snapshot named theirs" in words), (409, True), words)
        self.assertEqual(await names(admin, vm), ["theirs"], "the task found it")
        snapshots.create(uuid, "another")
        (disk,) = (await admin.call("get_vm", vm))["disks"]
        self.assertEqual((await admin.fail("detach_disk", vm, disk))[0], 409)
        self.assertEqual(await names(admin, vm), ["theirs", "another"])
        for name in ("theirs", "another"):
            snapshots.delete(uuid, name)
        await admin.do("detach_disk", vm, disk)
        self.assertEqual(await names(admin, vm), [])

    async def test_an_adopted_vm_keeps_its_snapshots(self) -> None:
        running, admin, _, snapshots, _ = await self.start()
        host = simulated(running, 1)
        path = host.create_volume("default", "theirs", 1, "qcow2").path
        uuid = "11111111-2222-4333-8444-555555555555"
        disks = (DomainDisk(path, "qcow2", "vda"),)
        host.add(DomainInfo(uuid, "theirs", DomainState.STOPPED, 1, 1, 64, 64, disks))
        snapshots.create(uuid, "before")
        plan = await admin.do("create_resource_plan", "none", {"snapshots": 0})
        await admin.user("alice")
        await admin.do("set_user_resource_plan", 2, plan)
        self.assertEqual((await admin.fail("adopt_vm", 1, uuid, 2))[0], 507)
        await admin.do("set_resource_plan", plan, {"snapshots": 1})
        vm = await admin.do("adopt_vm", 1, uuid, 2)
        self.assertEqual(await names(admin, vm), ["before"])

    async def unanswered(self, done: bool) -> int:
        """Let the node stop answering. Returns the number of snapshots afterwards. @param done: it was created."""
        running, admin, vm, snapshots, uuid = await self.start()
        running.server._nodes._watches[1].connection._faults._hang = frozenset({"create_snapshot"})
        await admin.call("create_vm_snapshot", vm, "one")
        ec = await admin.call("commit_tasks")
        if done:
            snapshots.create(uuid, "one")
        while any(await admin.call("get_task_state", ec)):
            await running.pass_time(10)
        context = await admin.call("get_execution_context", ec)
        self.assertEqual(context["tasks"][0]["code"], 503, context["errors"])
        self.assertEqual(await names(admin, vm), ["one"], "it counts until the node reports")
        for _ in range(4):
            await running.pass_time(1)
        inventory = running.server.inventory
        await self.until(lambda: inventory.vms_on(1)[0].state == "stopped")
        await self.until(lambda: len(inventory.vms_on(1)[0].snapshots) == int(done))
        return int((await admin.call("get_user_usage", 1))["snapshots"]["used"])

    async def test_a_node_that_stops_answering_without_creating_it(self) -> None:
        self.assertEqual(await self.unanswered(False), 0)

    async def test_a_node_that_stops_answering_but_created_it(self) -> None:
        self.assertEqual(await self.unanswered(True), 1)


class CrashTests(ServerCase):
    """The server stops during an operation, as if it had crashed."""

    async def interrupted(self, verb: str, method: str, *arguments: Any) -> tuple[Running, Client, int, int]:
        """A server that was restarted while the hypervisor was working; its node answers again."""
        running = self.serve()
        admin = await running.login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "one", "disks": [{"size": 1}]})
        snapshot = await make(admin, vm, "before")
        running.server._nodes._watches[1].connection._faults._hang = frozenset({verb})
        await admin.call(method, vm, *[snapshot if one == "ID" else one for one in arguments])
        ec = await admin.call("commit_tasks")
        for _ in range(3):
            await running.pass_time(0.1)
        return running, admin, vm, ec

    async def test_created_but_not_recorded(self) -> None:
        running, admin, vm, ec = await self.interrupted("create_snapshot", "create_vm_snapshot", "new")
        host = simulated(running, 1)
        uuid = host.domains()[0].uuid
        Snapshots(host).create(uuid, "new")  # the hypervisor created it nevertheless
        admin = await (await self.restart(running)).login()
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), [""])
        told = {one["name"]: one["id"] for one in await admin.call("list_vm_snapshots", vm)}
        self.assertEqual([told["new"]], await admin.call("get_results", ec))
        self.assertEqual((await admin.call("get_user_usage", 1))["snapshots"]["used"], 2)

    async def test_not_reverted_twice(self) -> None:
        running, admin, vm, ec = await self.interrupted("revert_snapshot", "revert_vm_snapshot", "ID")
        admin = await (await self.restart(running)).login()
        await admin.finish(ec)
        (error,) = await admin.call("get_errors", ec)
        self.assertIn("interrupted", error)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")
        (snapshot,) = await admin.call("list_vm_snapshots", vm)
        await admin.do("revert_vm_snapshot", vm, snapshot["id"])

    async def test_deleted_but_not_recorded(self) -> None:
        running, admin, vm, ec = await self.interrupted("delete_snapshot", "delete_vm_snapshot", "ID")
        host = simulated(running, 1)
        Snapshots(host).delete(host.domains()[0].uuid, "before")
        admin = await (await self.restart(running)).login()
        await admin.finish(ec)
        self.assertEqual((await admin.call("get_errors", ec), await names(admin, vm)), ([""], []))


class SnapshotQuotaTests(QuotaCase):
    async def test_counted(self) -> None:
        admin, alice = await self.start({"snapshots": 2, "running_vms": 1})
        vm = await alice.do("create_vm", {"name": "one"})
        first = await make(alice, vm, "one")
        await make(alice, vm, "two")
        await self.over(alice, "snapshots", "create_vm_snapshot", vm, "three")
        await alice.do("delete_vm_snapshot", vm, first)
        self.assertEqual((await alice.call("get_user_usage", 2))["snapshots"], {"used": 1, "limit": 2})
        await make(alice, vm, "three")
        bob = await admin.user("bob")
        plan = await admin.do("create_resource_plan", "tiny", {"snapshots": 1})
        await admin.do("set_user_resource_plan", 3, plan)
        self.assertEqual((await admin.fail("set_vm_owner", vm, 3))[0], 507)
        await admin.do("set_resource_plan", plan, {"snapshots": 2})
        await admin.do("set_vm_owner", vm, 3)
        self.assertEqual((await self.used(alice))["snapshots"], 0)
        self.assertEqual((await bob.call("get_user_usage", 3))["snapshots"]["used"], 2)

    async def test_a_vm_that_runs_after_a_revert_counts_as_running(self) -> None:
        _, alice = await self.start({"running_vms": 1})
        one, two = [await alice.do("create_vm", {"name": name}) for name in ("one", "two")]
        await alice.do("start_vm", one)
        snapshot = await make(alice, one, "on")
        await alice.do("stop_vm", one)
        await alice.do("start_vm", two)
        await self.over(alice, "running_vms", "revert_vm_snapshot", one, snapshot)
        self.assertEqual((await alice.call("get_vm", one))["state"], "stopped")
        await alice.do("stop_vm", two)
        await alice.do("revert_vm_snapshot", one, snapshot)
        await self.over(alice, "running_vms", "start_vm", two)

    async def test_no_interleaving_exceeds_the_limit(self) -> None:
        _, alice = await self.start({"snapshots": 3}, delay=0.01)
        running = alice.running
        vms = [await alice.do("create_vm", {"name": f"vm{number}"}) for number in range(6)]
        ledger, exceeded = running.server.inventory.ledger, []

        def look(rows: object) -> None:
            if ledger.used(("user", 2), "snapshots") > 3:
                exceeded.append(ledger.used(("user", 2), "snapshots"))

        running.server.inventory.listen(look)
        codes: list[int] = []
        dice = random.Random(3)

        async def work(client: Client, vm: int) -> None:
            for step in range(8):
                await client.call("create_vm_snapshot", vm, f"s{step}")
                kept = [one["id"] for one in await client.call("list_vm_snapshots", vm)]
                if kept and dice.random() < 0.7:
                    await client.call("delete_vm_snapshot", vm, dice.choice(kept))
                ec = await client.call("commit_tasks")
                while not await client.call("wait_for_tasks", ec, 25):
                    pass
                context = await client.call("get_execution_context", ec)
                codes.extend(task["code"] for task in context["tasks"])

        clients = [await running.login("alice") for _ in vms]
        working = gatherResults([Deferred.fromCoroutine(work(client, vm)) for client, vm in zip(clients, vms, strict=True)])
        while not working.called:
            await running.pass_time(0.01)
        await working
        self.assertEqual(exceeded, [])
        self.assertTrue({0, 507} <= set(codes), codes)
        held = sum(vm["snapshots"] for vm in await alice.call("list_vms"))
        self.assertEqual((await self.used(alice))["snapshots"], held)
