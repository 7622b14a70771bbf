"""Every list, with filters and in pages; and empty arrays that are sent instead of empty structs."""

from __future__ import annotations

from typing import Any

from fluidvm.driver import DomainSpec
from fluidvm.model.declare import METHODS
from fluidvm.model.kinds import Struct
from tests.support import Client, ServerCase
from tests.unit.api.nodes.test_nodes import simulated

LISTS = sorted(name for name in METHODS if name.startswith("list_"))
KEYS = {
    "list_drivers": "name",
    "list_networks": "name",
    "list_storage_pools": "name",
    "list_templates": "name",
    "list_foreign_vms": "uuid",
}
"""The key that identifies the members of a list, if it isn't C{id}."""


def members(found: list[Any]) -> list[dict[str, Any]]:
    """The members of a list as structs: templates are only names."""
    return [{"name": one} if isinstance(one, str) else one for one in found]


class DeclarationTests(ServerCase):
    def test_each_list_takes_a_filter_last(self) -> None:
        self.assertGreater(len(LISTS), 12)
        for name in LISTS:
            wanted = METHODS[name].parameters[-1]
            self.assertEqual((wanted.name, wanted.optional), ("filter", True), name)
            self.assertIsInstance(wanted.kind, Struct)
            fields: Any = wanted.kind.fields  # type: ignore[attr-defined]
            self.assertLessEqual({"fields", "limit", "after", KEYS.get(name, "id")}, set(fields), name)
            self.assertEqual(fields["after"].python, str if name in KEYS else int, name)


class ListTests(ServerCase):
    async def start(self) -> tuple[Client, dict[str, list[Any]]]:
        """A server that has at least two objects of each type, and the arguments of the lists."""
        running = self.serve()
        admin = await running.login()
        for name in ("alice", "bob"):
            await admin.user(name)
            await admin.do("create_resource_plan", f"{name}s", {"vms": 1})
        node = await admin.node("one")
        await admin.node("two")
        kinds = {"data": "qcow2", "more": "raw"}
        disks = [await admin.do("create_disk", {"name": name, "size": 10, "format": kinds[name]}) for name in kinds]
        vms = [await admin.do("create_vm", {"name": name, "compute_node": node}) for name in ("web", "db")]
        for name in ("first", "second"):
            await admin.do("create_disk_snapshot", disks[0], name)
            await admin.do("create_vm_snapshot", vms[0], name)
            await admin.do("create_image", disks[1], name)
        host = simulated(running, node)
        for last in "2143":  # not in sorted order
            host.define(DomainSpec(f"11111111-2222-3333-4444-55555555555{last}", f"theirs{last}", 1, 1, 64, 64))
        about = {"node": node, "vm": vms[0], "disk": disks[0]}
        return admin, {name: [about[parameter.name] for parameter in METHODS[name].parameters[:-1]] for name in LISTS}

    async def test_pages(self) -> None:
        admin, arguments = await self.start()
        for name, given in arguments.items():
            key = KEYS.get(name, "id")
            whole = await admin.call(name, *given)
            self.assertGreater(len(whole), 0 if name == "list_storage_pools" else 1, name)
            wholes: tuple[Any, ...] = ({}, [], {"limit": 1000})
            for everything in wholes:
                self.assertEqual(await admin.call(name, *given, everything), whole, name)
            self.assertEqual(await admin.call(name, *given, {"limit": 0}), [], name)
            for size in (1, 2):
                paged: list[Any] = []
                wanted: dict[str, Any] = {"limit": size}
                while found := await admin.call(name, *given, wanted):
                    self.assertLessEqual(len(found), size, name)
                    paged += found
                    wanted["after"] = members(found)[-1][key]
                self.assertEqual(paged, whole, name)

    async def test_filtered_and_cut(self) -> None:
        admin, arguments = await self.start()
        for name, given in arguments.items():
            key = KEYS.get(name, "id")
            whole = await admin.call(name, *given)
            one = members(whole)[-1]
            for field, value in one.items():
                found = await admin.call(name, *given, {field: value})
                self.assertEqual(found, [each for each in whole if members([each])[0].get(field) == value], (name, field))
            self.assertEqual(await admin.call(name, *given, {key: one[key]}), [whole[-1]], name)
            found = members(await admin.call(name, *given, {"fields": [key]}))
            self.assertEqual(found, [{key: each[key]} for each in members(whole)], name)

    async def test_by_name(self) -> None:
        """Sorted by the key that C{after} compares, whatever the order on the host."""
        admin, arguments = await self.start()
        for name, key in KEYS.items():
            keys = [one[key] for one in members(await admin.call(name, *arguments[name]))]
            self.assertEqual(keys, sorted(keys), name)
            self.assertEqual(members(await admin.call(name, *arguments[name], {"after": "0"}))[0][key], keys[0], name)

    async def test_after_may_name_a_member_that_is_gone(self) -> None:
        admin, arguments = await self.start()
        whole = await admin.call("list_templates", *arguments["list_templates"])
        self.assertEqual(await admin.call("list_templates", *arguments["list_templates"], {"after": "b"}), whole[1:])

    async def test_plain_users_filter_what_they_see(self) -> None:
        admin, _ = await self.start()
        await admin.do("set_compute_node", 1, {"user_networks": ["lan"]})
        alice = await admin.running.login("alice")
        self.assertEqual([one["name"] for one in await alice.call("list_networks", 1, {"limit": 5})], ["lan"])
        whole = await admin.call("list_compute_nodes", {"fields": ["address", "name", "address"], "limit": 1})
        self.assertEqual(whole, [{"address": "", "name": "one"}])
        seen = await alice.call("list_compute_nodes", {"fields": ["address", "name", "address"], "limit": 1})
        self.assertEqual(seen, [{"name": "one"}])
        self.assertEqual(await alice.call("list_compute_nodes", {"address": ""}), [])


class EmptyArrayTests(ServerCase):
    """PHP sends an empty array where it means an empty struct."""

    async def test_an_empty_array_is_an_empty_struct(self) -> None:
        admin = await self.serve().login()
        await admin.do("add_compute_node", "one", "simulator", "", [])
        await admin.do("create_resource_plan", "free", [])
        vm = await admin.do("create_vm", {"name": "web", "boot": []})
        await admin.do("set_vm_details", vm, [])
        await admin.do("delete_vm", vm, [])
        await admin.call("create_user", "alice", "a good enough password", [])
        self.assertEqual(await admin.call("get_errors", await admin.call("commit_tasks", [])), [""])

    async def test_an_empty_array_is_an_empty_struct_in_filters(self) -> None:
        admin = await self.serve().login()
        await admin.do("create_resource_plan", "free", {})
        await admin.do("create_resource_plan", "small", {"vms": 1})
        found = await admin.call("list_resource_plans", {"limits": []})
        self.assertEqual([one["name"] for one in found], ["free"])

    async def test_other_arrays_are_not_taken_for_structs(self) -> None:
        admin = await self.serve().login()
        wrongs: tuple[Any, ...] = ([1], [{}], [[]])
        for wrong in wrongs:
            words = await self.refused(-32602, admin.call("list_vms", wrong))
            self.assertIn("must be a struct, not array", words)
        self.assertIn("must be an array, not struct", await self.refused(-32602, admin.call("list_vms", {"fields": {}})))
