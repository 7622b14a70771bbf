"""Snapshots of single disks: creation, revert, deletion, quotas, and recovery."""

from __future__ import annotations

from typing import Any

from fluidvm.drivers.simulator.volume_snapshots import VolumeSnapshots
from tests.support import Client, Running, ServerCase
from tests.unit.api.accounts.test_plans import QuotaCase
from tests.unit.api.nodes.test_nodes import simulated


async def make(client: Client, disk: int, name: str) -> int:
    """Create a snapshot. Returns its id."""
    await client.call("create_disk_snapshot", disk, name)
    ec = await client.commit()
    (error,), (result,) = await client.call("get_errors", ec), await client.call("get_results", ec)
    if error:
        raise AssertionError(error)
    return int(result)


async def names(client: Client, disk: int) -> list[str]:
    """The names of a disk's snapshots."""
    return [one["name"] for one in await client.call("list_disk_snapshots", disk)]


class DiskSnapshotTests(ServerCase):
    async def start(self, **options: Any) -> tuple[Running, Client, int]:
        """A detached disk."""
        running = self.serve()
        admin = await running.login()
        await admin.node(**options)
        return running, admin, await admin.do("create_disk", {"name": "data", "size": 10})

    def kept(self, running: Running) -> tuple[VolumeSnapshots, str, str, str]:
        """The simulated host's snapshots of volumes, and the disk's pool, volume and format."""
        host = simulated(running, 1)
        volume = host.all_volumes()[0]
        return VolumeSnapshots(host), volume.pool, volume.name, volume.format

    async def test_created_and_reverted_to(self) -> None:
        running, admin, disk = await self.start()
        await admin.call("ping")
        first = await make(admin, disk, "first")
        changes = [(one["type"], one["id"], one["change"]) for one in await admin.call("ping")]
        self.assertIn(("disk", disk, "updated"), changes)
        second = await make(admin, disk, "second")
        self.assertEqual((await admin.call("get_disk", disk))["snapshots"], 2)
        told = await admin.call("list_disk_snapshots", disk)
        self.assertEqual(
            [(one["id"], one["disk"], one["name"], one["running"]) for one in told],
            [(first, disk, "first", False), (second, disk, "second", False)],
        )
        self.assertEqual(await admin.call("list_disk_snapshots", disk, {"name": "first", "fields": ["id"]}), [{"id": first}])
        await admin.do("revert_disk_snapshot", disk, first)
        await admin.do("delete_disk_snapshot", disk, first)
        self.assertEqual(await names(admin, disk), ["second"])
        for method in ("revert_disk_snapshot", "delete_disk_snapshot"):
            self.assertEqual((await admin.fail(method, disk, first))[0], 404)
        self.assertEqual((await admin.fail("create_disk_snapshot", disk, "second"))[0], 409)
        snapshots, *at = self.kept(running)
        self.assertEqual([one.name for one in snapshots.of(*at[:2])], ["second"])
        admin = await (await self.restart(running)).login()
        self.assertEqual(await admin.call("list_disk_snapshots", disk), told[1:])
        await admin.do("delete_disk", disk)
        self.assertEqual((await admin.call("get_user_usage", 1))["snapshots"]["used"], 0)

    async def test_a_vms_disk(self) -> None:
        _, admin, disk = await self.start()
        vm = await admin.do("create_vm", {"name": "one", "disks": [{"disk": disk}]})
        snapshot = await make(admin, disk, "one")
        self.assertEqual(((await admin.call("get_vm", vm))["snapshots"], await names(admin, disk)), (0, ["one"]))
        await admin.do("create_vm_snapshot", vm, "one")
        self.assertEqual(await names(admin, disk), ["one"])
        await admin.do("start_vm", vm)
        calls: list[tuple[Any, ...]] = [
            ("create_disk_snapshot", disk, "two"),
            ("revert_disk_snapshot", disk, snapshot),
            ("delete_disk_snapshot", disk, snapshot),
        ]
        for do in ("pause_vm", "resume_vm", "save_vm"):
            await admin.do(do, vm)
            for method, *arguments in calls:
                code, words = await admin.fail(method, *arguments)
                self.assertEqual((code, "stop it first" in words), (409, True), words)
        await admin.do("stop_vm", vm)
        await admin.do("revert_disk_snapshot", disk, snapshot)
        await admin.do("delete_vm", vm, {"keep_disks": True})
        self.assertEqual(await names(admin, disk), ["one"], "they are the disk's own")

    async def test_what_snapshots_forbid(self) -> None:
        _, admin, disk = await self.start()
        other = await admin.node("other")
        vm = await admin.do("create_vm", {"name": "one", "disks": [{"disk": disk}]})
        snapshot = await make(admin, disk, "one")
        forbidden: list[tuple[Any, ...]] = [("resize_disk", disk, 20), ("migrate_vm", vm, other, {"copy_storage": True})]
        for method, *arguments in forbidden:
            code, words = await admin.fail(method, *arguments)
            self.assertEqual((code, "delete_disk_snapshot" in words), (409, True), words)
        copy = await admin.do("clone_disk", disk, "copy")
        self.assertEqual(await names(admin, copy), [])
        await admin.do("detach_disk", vm, disk)
        await admin.do("attach_disk", vm, disk)
        await admin.do("delete_disk_snapshot", disk, snapshot)
        for method, *arguments in forbidden:
            await admin.do(method, *arguments)

    async def test_who_may(self) -> None:
        _, admin, disk = await self.start()
        snapshot = await make(admin, disk, "hers")
        alice, auditor = await admin.user("alice"), await admin.user("bob", "auditor")
        await self.refused(404, alice.call("list_disk_snapshots", disk))
        await self.refused(404, alice.call("revert_disk_snapshot", disk, snapshot))
        self.assertEqual(await names(auditor, disk), ["hers"])
        await self.refused(403, auditor.call("delete_disk_snapshot", disk, snapshot))
        await self.refused(-32602, admin.call("create_disk_snapshot", disk, "a:b"))

    async def test_formats_and_failures(self) -> None:
        _, admin, _ = await self.start()
        raw = await admin.do("create_disk", {"name": "raw", "size": 1, "format": "raw"})
        self.assertEqual((await admin.fail("create_disk_snapshot", raw, "one"))[0], 501)
        node = await admin.node("broken", fail=["create_volume_snapshot"])
        disk = await admin.do("create_disk", {"name": "broken", "size": 1, "compute_node": node})
        self.assertEqual((await admin.fail("create_disk_snapshot", disk, "one"))[0], 503)
        self.assertEqual((await names(admin, raw), await names(admin, disk)), ([], []))
        self.assertEqual((await admin.call("get_user_usage", 1))["snapshots"]["used"], 0)

    async def test_changes_made_on_the_compute_node(self) -> None:
        running, admin, disk = await self.start()
        snapshots, *at = self.kept(running)
        await make(admin, disk, "mine")
        snapshots.create(*at, "theirs")  # type: ignore[call-arg]
        await admin.do("refresh_compute_node", 1)
        told = {one["name"]: one["id"] for one in await admin.call("list_disk_snapshots", disk)}
        self.assertEqual(list(told), ["mine", "theirs"])
        snapshots.delete(*at, "mine")  # type: ignore[call-arg]
        simulated(running, 1).cut("the cable was pulled")
        for _ in range(4):
            await running.pass_time(1)
        await self.until(lambda: len(running.server.inventory.disks_on(1)[0].snapshots) == 1)
        self.assertEqual(await names(admin, disk), ["theirs"])
        snapshots.create(*at, "another")  # type: ignore[call-arg]
        self.assertEqual((await admin.fail("create_disk_snapshot", disk, "another"))[0], 409)
        self.assertEqual(await names(admin, disk), ["theirs", "another"])

    async def test_planned(self) -> None:
        _, admin, disk = await self.start()
        snapshot = await make(admin, disk, "one")
        calls: list[tuple[int, str, tuple[Any, ...]]] = [
            (409, "create_disk_snapshot", (disk, "one")),
            (409, "resize_disk", (disk, 20)),
            (0, "revert_disk_snapshot", (disk, snapshot)),
            (0, "delete_disk_snapshot", (disk, snapshot)),
            (0, "resize_disk", (disk, 20)),
            (0, "create_disk_snapshot", (disk, "one")),
        ]
        for _, method, arguments in calls:
            await admin.call(method, *arguments)
        planned = await admin.call("plan_tasks")
        self.assertEqual([line["code"] for line in planned], [code for code, _, _ in calls])
        self.assertEqual((await admin.call("list_disk_snapshots", disk))[0]["id"], snapshot, "nothing has changed")
        ec = await admin.commit()
        codes = [task["code"] for task in (await admin.call("get_execution_context", ec))["tasks"]]
        self.assertEqual(codes, [code for code, _, _ in calls])

    async def interrupted(self, verb: str, method: str, *arguments: Any) -> tuple[Running, int]:
        """A server that is stopped while the hypervisor is working, as if it had crashed."""
        running, admin, disk = await self.start()
        snapshot = await make(admin, disk, "before")
        running.server._nodes._watches[1].connection._faults._hang = frozenset({verb})
        await admin.call(method, disk, *[snapshot if one == "ID" else one for one in arguments])
        ec = await admin.call("commit_tasks")
        for _ in range(3):
            await running.pass_time(0.1)
        return running, ec

    async def test_created_but_not_recorded(self) -> None:
        running, ec = await self.interrupted("create_volume_snapshot", "create_disk_snapshot", "new")
        snapshots, *at = self.kept(running)
        snapshots.create(*at, "new")  # type: ignore[call-arg]  # the hypervisor created it nevertheless
        admin = await (await self.restart(running)).login()
        await admin.finish(ec)
        told = {one["name"]: one["id"] for one in await admin.call("list_disk_snapshots", 1)}
        self.assertEqual((list(told), [told["new"]]), (["before", "new"], await admin.call("get_results", ec)))

    async def test_deleted_again(self) -> None:
        running, ec = await self.interrupted("delete_volume_snapshot", "delete_disk_snapshot", "ID")
        admin = await (await self.restart(running)).login()
        await admin.finish(ec)
        self.assertEqual((await admin.call("get_errors", ec), await names(admin, 1)), ([""], []))

    async def test_reverted_to_again(self) -> None:
        """Nobody has used the disk meanwhile, because the task held it all the time."""
        running, ec = await self.interrupted("revert_volume", "revert_disk_snapshot", "ID")
        admin = await (await self.restart(running)).login()
        await admin.finish(ec)
        self.assertEqual((await admin.call("get_errors", ec), await names(admin, 1)), ([""], ["before"]))


class DiskSnapshotQuotaTests(QuotaCase):
    async def test_counted_together_with_the_vms(self) -> None:
        admin, alice = await self.start({"snapshots": 2})
        vm = await alice.do("create_vm", {"name": "one", "disks": [{"size": 1}]})
        (disk,) = (await alice.call("get_vm", vm))["disks"]
        await alice.do("create_vm_snapshot", vm, "one")
        snapshot = await make(alice, disk, "one")
        await self.over(alice, "snapshots", "create_disk_snapshot", disk, "two")
        await self.over(alice, "snapshots", "create_vm_snapshot", vm, "two")
        await alice.do("delete_disk_snapshot", disk, snapshot)
        await make(alice, disk, "two")
        await admin.user("bob")
        plan = await admin.do("create_resource_plan", "tiny", {"snapshots": 1})
        await admin.do("set_user_resource_plan", 3, plan)
        self.assertEqual((await admin.fail("set_vm_owner", vm, 3))[0], 507)
        spare = await alice.do("create_disk", {"name": "spare", "size": 1})
        await self.over(alice, "snapshots", "create_disk_snapshot", spare, "three")
        await admin.do("set_resource_plan", self.plan, {"snapshots": 4})
        for name in ("three", "four"):
            await make(alice, spare, name)
        self.assertEqual((await admin.fail("set_disk_owner", spare, 3))[0], 507)
        await admin.do("set_resource_plan", plan, {"snapshots": 4})
        await admin.do("set_disk_owner", spare, 3)
        await admin.do("set_vm_owner", vm, 3)
        self.assertEqual((await self.used(alice))["snapshots"], 0)
        self.assertEqual((await admin.call("get_user_usage", 3))["snapshots"]["used"], 4)
