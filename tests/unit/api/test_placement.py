"""Placement of VMs: on the compute node of their disks, and only where there is room."""

from __future__ import annotations

from tests.support import Client, ServerCase
from tests.unit.api.vms.test_adoption import stranger


class PlacingCase(ServerCase):
    """Two nodes: a small one with one disk, and a large one where anything goes."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.there = self.serve()
        self.admin = await self.there.login()
        self.small = await self.admin.node("small", memory=1000, vcpus=1)
        self.large = await self.admin.node("large")
        await self.admin.do("set_compute_node", self.small, {"vcpu_overcommit": 4.0})
        self.alice = await self.admin.user("alice")
        self.disk = await self.alice.do("create_disk", {"name": "data", "size": 1, "compute_node": self.small})

    async def both(self, client: Client, method: str, *arguments: object) -> tuple[int, str]:
        """Run a task that fails. Returns the code and the error, which the rehearsal must have predicted."""
        await client.call(method, *arguments)
        (planned,) = await client.call("plan_tasks")
        await client.call("discard_tasks")
        found = await client.fail(method, *arguments)
        self.assertEqual((planned["code"], planned["error"]), found)
        return found

    async def node_of(self, vm: int) -> int:
        node: int = (await self.admin.call("get_vm", vm))["compute_node"]
        return node


class DiskTests(PlacingCase):
    async def test_a_vm_goes_to_its_disk(self) -> None:
        vm = await self.alice.do("create_vm", {"name": "web", "disks": [{"size": 1}, {"disk": self.disk}]})
        self.assertEqual(await self.node_of(vm), self.small)

    async def test_disks_on_several_nodes(self) -> None:
        other = await self.alice.do("create_disk", {"name": "more", "size": 1, "compute_node": self.large})
        spec = {"name": "web", "disks": [{"disk": self.disk}, {"disk": other}]}
        for more in ({}, {"compute_node": self.small}):
            code, words = await self.both(self.alice, "create_vm", spec | more)
            self.assertEqual(code, 409)
            self.assertIn("data on small, more on large", words)

    async def test_another_node_is_asked_for(self) -> None:
        spec = {"name": "web", "disks": [{"disk": self.disk}]}
        for more, wanted in (
            ({"compute_node": self.large}, "on compute node small"),
            ({"driver": "kvm"}, "its driver is simulator"),
            ({"labels": ["fast"]}, "no label fast"),
        ):
            code, words = await self.both(self.alice, "create_vm", spec | more)
            self.assertEqual((code, wanted in words), (409, True), words)
        await self.admin.do("set_compute_node", self.small, {"labels": ["fast"]})
        vm = await self.alice.do("create_vm", spec | {"labels": ["fast"], "driver": "simulator"})
        self.assertEqual(await self.node_of(vm), self.small)

    async def test_a_node_that_takes_nothing_new(self) -> None:
        await self.admin.do("set_compute_node_mode", self.small, "cordoned")
        code, words = await self.both(self.alice, "create_vm", {"name": "web", "disks": [{"disk": self.disk}]})
        self.assertEqual((code, words), (409, "Compute node small is in mode cordoned."))


class RoomTests(PlacingCase):
    async def test_a_node_that_is_named(self) -> None:
        for amounts, lack in (
            ({"memory": 1001}, "memory, 1 MiB short"),
            ({"memory": 64, "max_memory": 1002}, "memory, 2 MiB short"),
            ({"max_vcpus": 7}, "virtual CPUs, 3 short"),
        ):
            for client in (self.alice, self.admin):
                spec = {"name": "web", "compute_node": self.small, **amounts}
                code, words = await self.both(client, "create_vm", spec)
                self.assertEqual((code, words), (409, f"Compute node small doesn't have enough room: {lack}."))
        await self.alice.do("create_vm", {"name": "web", "compute_node": self.small, "memory": 1000})
        code, _ = await self.both(self.alice, "create_vm", {"name": "more", "memory": 16, "disks": [{"disk": self.disk}]})
        self.assertEqual(code, 409)

    async def test_force(self) -> None:
        forced = {"name": "web", "memory": 2000, "force": True}
        vm = await self.admin.do("create_vm", {**forced, "compute_node": self.small})
        self.assertEqual(await self.node_of(vm), self.small)
        # If no node is named, the one with the most free memory is chosen, as always.
        for _ in range(2):
            await self.admin.do("create_vm", {"name": f"big{_}", "memory": 200_000, "force": True})
        words = await self.refused(403, self.alice.call("create_vm", {**forced, "compute_node": self.small}))
        self.assertEqual(words, "spec.force: is allowed only for administrators.")
        spec = {"name": "own", "compute_node": self.small, "owner": 2, "force": True}
        vm = await self.admin.do("create_vm", spec)
        for method, arguments in (("clone_vm", ("copy", {"force": True})), ("migrate_vm", (self.large, {"force": True}))):
            words = await self.refused(403, self.alice.call(method, vm, *arguments))
            self.assertEqual(words, "options.force: is allowed only for administrators.")

    async def test_a_vm_that_grows(self) -> None:
        vm = await self.alice.do("create_vm", {"name": "web", "compute_node": self.small, "memory": 500})
        for client in (self.alice, self.admin):
            for method, amount, lack in (
                ("set_vm_memory", 1001, "memory, 1 MiB short"),
                ("set_vm_vcpus", 7, "virtual CPUs, 3 short"),
            ):
                code, words = await self.both(client, method, vm, amount)
                self.assertEqual((code, words), (409, f"Compute node small doesn't have enough room: {lack}."))
                await self.refused(403, self.alice.call(method, vm, amount, {"force": True}))
        await self.alice.do("set_vm_memory", vm, 1000)
        await self.alice.do("set_vm_memory", vm, 500)
        self.assertEqual((await self.admin.call("get_compute_node", self.small))["memory_used"], 1000)
        await self.admin.do("set_vm_memory", vm, 1001, {"force": True})
        await self.admin.do("set_vm_vcpus", vm, 7, {"force": True})

    async def test_a_former_administrator_cannot_use_force(self) -> None:
        bob = await self.admin.user("bob", role="admin")
        await bob.call("create_vm", {"name": "web", "memory": 2000, "compute_node": self.small, "force": True})
        await self.admin.do("set_user_role", 3, "user")
        ec = await bob.commit()
        self.assertEqual(await bob.call("get_errors", ec), ["spec.force: is allowed only for administrators."])

    async def test_copies(self) -> None:
        vm = await self.alice.do("create_vm", {"name": "web", "compute_node": self.small, "memory": 600})
        self.assertEqual((await self.both(self.alice, "clone_vm", vm, "copy"))[0], 409)
        await self.admin.do("clone_vm", vm, "copy", {"force": True})

    async def test_moves(self) -> None:
        one, two = [
            await self.alice.do("create_vm", {"name": name, "compute_node": self.large, "memory": 600})
            for name in ("one", "two")
        ]
        # Two at the same time: there is room for only one of them.
        ecs = []
        for client, vm in ((self.alice, one), (self.admin, two)):
            await client.call("migrate_vm", vm, self.small)
            ecs.append(await client.call("commit_tasks"))
        for client, ec in zip((self.alice, self.admin), ecs, strict=True):
            await client.finish(ec)
        errors = [(await self.admin.call("get_errors", ec))[0] for ec in ecs]
        self.assertEqual(sorted(errors), ["", "Compute node small doesn't have enough room: memory, 200 MiB short."])
        left = [vm for vm in (one, two) if await self.node_of(vm) == self.large]
        self.assertEqual(len(left), 1)
        self.assertEqual((await self.both(self.admin, "migrate_vm", left[0], self.small))[0], 409)
        await self.admin.do("migrate_vm", left[0], self.small, {"force": True})
        # Nothing stays reserved.
        node = await self.admin.call("get_compute_node", self.small)
        self.assertEqual((node["vms"], node["memory_used"]), (2, 1200))
        for vm in (one, two):
            await self.alice.do("delete_vm", vm)
        await self.alice.do("create_vm", {"name": "whole", "compute_node": self.small, "memory": 1000})

    async def test_an_evacuation_that_fits_exactly(self) -> None:
        vm = await self.alice.do("create_vm", {"name": "web", "compute_node": self.large, "memory": 1000})
        await self.admin.do("evacuate_compute_node", self.large)
        self.assertEqual(await self.node_of(vm), self.small)

    async def test_adopted_guests_and_disks_need_no_room(self) -> None:
        """A guest that is taken over uses no more memory than before, and a disk uses none."""
        await self.admin.do("create_vm", {"name": "web", "compute_node": self.small, "memory": 1000})
        await self.admin.do("set_compute_node", self.small, {"memory_overcommit": 0.5})
        await self.admin.do("adopt_vm", self.small, stranger(self.there, self.small), 1)
        await self.admin.do("create_disk", {"name": "more", "size": 1, "compute_node": self.small})
