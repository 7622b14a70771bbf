from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed

from fluidvm.driver import DriverError, NotReady
from fluidvm.drivers.simulator.driver import SimulatedConnection
from tests.support import PASSWORD, Client, ServerCase


class VmTests(ServerCase):
    async def admin(self, **node: object) -> Client:
        admin = await self.serve().login()
        self.node = await admin.node(**node)  # type: ignore[arg-type]
        return admin

    async def test_create_and_get(self) -> None:
        admin = await self.admin()
        spec = {
            "name": "web",
            "vcpus": 2,
            "max_vcpus": 4,
            "memory": 256,
            "max_memory": 512,
            "compute_node": self.node,
            "description": 'fronts <the> "shop" & more\r\n\ttabs, émoji \U0001f600',
            "tags": ["a", "b"],
            "autostart": True,
            "boot": {"kernel": "/boot/vmlinuz", "initrd": "/boot/initrd.img", "cmdline": "quiet"},
            "disks": [{"size": 100}, {"size": 200, "format": "raw"}],
        }
        vm = await admin.do("create_vm", spec)
        found = await admin.call("get_vm", vm)
        for key in ("name", "vcpus", "max_vcpus", "memory", "max_memory", "description", "tags", "autostart", "boot"):
            self.assertEqual(found[key], spec[key], key)
        self.assertEqual((found["state"], found["owner"], found["driver"]), ("stopped", 1, "simulator"))
        self.assertEqual(
            set(found),
            {
                "id",
                "name",
                "owner",
                "state",
                "uuid",
                "compute_node",
                "driver",
                "vcpus",
                "max_vcpus",
                "memory",
                "max_memory",
                "disks",
                "interfaces",
                "description",
                "tags",
                "autostart",
                "boot",
                "snapshots",
                "created",
                "version",
            },
        )
        disks = [await admin.call("get_disk", disk) for disk in found["disks"]]
        self.assertEqual([disk["target"] for disk in disks], ["vda", "vdb"])
        self.assertEqual([(disk["size"], disk["format"]) for disk in disks], [(100, "qcow2"), (200, "raw")])
        self.assertEqual({disk["vm"] for disk in disks}, {vm})

    async def test_power(self) -> None:
        admin = await self.admin()
        vm = await admin.do("create_vm", {"name": "web"})
        for method, state in (
            ("start_vm", "running"),
            ("start_vm", "running"),
            ("pause_vm", "paused"),
            ("resume_vm", "running"),
            ("reboot_vm", "running"),
            ("shutdown_vm", "stopped"),
            ("start_vm", "running"),
            ("stop_vm", "stopped"),
            ("stop_vm", "stopped"),
        ):
            await admin.do(method, vm)
            self.assertEqual((await admin.call("get_vm", vm))["state"], state, method)
        for method in ("pause_vm", "resume_vm", "reboot_vm"):
            self.assertEqual((await admin.fail(method, vm))[0], 409, method)

    async def test_one_batch(self) -> None:
        """Ids of objects that a batch will create can be used in the same batch."""
        admin = await self.admin()
        disk = await admin.call("create_disk", {"name": "data", "size": 10})
        vm = await admin.call("create_vm", {"name": "web"})
        self.assertEqual(await admin.call("attach_disk", vm, disk), vm)
        self.assertEqual(await admin.call("start_vm", vm), vm)
        ec = await admin.commit()
        self.assertEqual(await admin.call("get_errors", ec), [""] * 4)
        self.assertEqual((await admin.call("get_vm", vm))["disks"], [disk])

    async def test_a_committed_creation_can_be_named_in_the_next_batch(self) -> None:
        admin = await self.admin(delay=1.0)
        vm = await admin.call("create_vm", {"name": "web"})
        await admin.call("commit_tasks")
        await admin.call("start_vm", vm)
        ec = await admin.call("commit_tasks")
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), [""])

    async def test_names_are_taken_per_owner(self) -> None:
        admin = await self.admin()
        await admin.do("create_vm", {"name": "web"})
        await self.refused(409, admin.call("create_vm", {"name": "web"}))
        alice = await admin.user("alice")
        await alice.do("create_vm", {"name": "web"})
        await admin.call("create_vm", {"name": "twice"})
        await admin.call("create_vm", {"name": "twice"})
        ec = await admin.commit()
        self.assertEqual((await admin.call("get_errors", ec))[1], "The name twice is already in use by another VM.")
        self.assertEqual(len(await admin.call("list_vms", {"name": "twice"})), 1)

    async def test_owner(self) -> None:
        admin = await self.admin()
        alice = await admin.user("alice")
        user = (await alice.call("get_session"))["user"]
        vm = await admin.do("create_vm", {"name": "hers", "owner": user, "disks": [{"size": 1}]})
        self.assertEqual((await alice.call("get_vm", vm))["owner"], user)
        self.assertEqual(len(await alice.call("list_disks")), 1)
        await alice.call("create_vm", {"name": "x", "owner": user})
        await self.refused(404, alice.call("create_vm", {"name": "y", "owner": 1}))

    async def test_kernels_of_plain_users(self) -> None:
        """A kernel is a file on the host: plain users may only name files in directories that an administrator allows."""
        admin = await self.admin(boot_dirs=["/srv/kernels"])
        alice = await admin.user("alice")
        await alice.do("create_vm", {"name": "good", "boot": {"kernel": "/srv/kernels/vmlinuz"}})
        for kernel in ("/etc/shadow", "/srv/kernels2/vmlinuz"):
            code, words = await alice.fail("create_vm", {"name": "bad", "boot": {"kernel": kernel}})
            self.assertEqual(code, 403, words)
        await self.refused(-32602, alice.call("create_vm", {"name": "x", "boot": {"kernel": "/srv/kernels/../x"}}))
        self.assertEqual(len(await admin.call("list_vms")), 1)

    async def test_live_changes_within_the_maximum(self) -> None:
        admin = await self.admin()
        vm = await admin.do("create_vm", {"name": "web", "memory": 256, "max_memory": 512, "max_vcpus": 2})
        await admin.do("start_vm", vm)
        await admin.do("set_vm_memory", vm, 400)
        await admin.do("set_vm_vcpus", vm, 2)
        for method, amount in (("set_vm_memory", 513), ("set_vm_vcpus", 3)):
            code, words = await admin.fail(method, vm, amount)
            self.assertEqual(code, 409)
            self.assertIn("stop", words)
        found = await admin.call("get_vm", vm)
        self.assertEqual((found["memory"], found["vcpus"]), (400, 2))
        await admin.do("stop_vm", vm)
        await admin.do("set_vm_memory", vm, 1024)
        found = await admin.call("get_vm", vm)
        self.assertEqual((found["memory"], found["max_memory"]), (1024, 1024))

    async def test_a_failed_creation_leaves_nothing(self) -> None:
        admin = await self.admin(fail=["define_domain"])
        code, words = await admin.fail("create_vm", {"name": "web", "disks": [{"size": 1}]})
        self.assertEqual(code, 503, words)
        self.assertEqual((await admin.call("list_vms"), await admin.call("list_disks")), ([], []))

    async def test_a_creation_that_is_refused_leaves_nothing(self) -> None:
        admin = await self.admin()
        disk = await admin.do("create_disk", {"name": "data", "size": 10})
        vm = await admin.do("create_vm", {"name": "web", "disks": [{"disk": disk}]})
        await admin.do("create_disk", {"name": "name-vdb", "size": 10})
        for name, disks in (
            ("other", [{"disk": disk}]),
            ("name", [{"size": 1}, {"size": 1}]),
            ("format", [{"size": 1, "format": "vmdk"}]),
        ):
            code, words = await admin.fail("create_vm", {"name": name, "disks": disks})
            self.assertIn(code, (409, -32602), words)
            self.assertEqual([one["name"] for one in await admin.call("list_vms")], ["web"], words)
            self.assertEqual(len(await admin.call("list_disks")), 2, words)
        self.assertEqual((await admin.call("get_disk", disk))["vm"], vm)
        self.assertEqual((await admin.call("get_user_usage", 1))["vms"]["used"], 1)

    async def test_delete(self) -> None:
        admin = await self.admin()
        vm = await admin.do("create_vm", {"name": "web", "disks": [{"size": 1}, {"size": 2}]})
        await admin.do("start_vm", vm)
        self.assertEqual((await admin.fail("delete_vm", vm))[0], 409)
        await admin.do("stop_vm", vm)
        await admin.do("delete_vm", vm, {"keep_disks": True})
        await self.refused(404, admin.call("get_vm", vm))
        disks = await admin.call("list_disks")
        self.assertEqual([("vm" in disk, "target" in disk) for disk in disks], [(False, False)] * 2)
        vm = await admin.do("create_vm", {"name": "web", "disks": [{"disk": disk["id"]} for disk in disks]})
        await admin.do("delete_vm", vm)
        self.assertEqual(await admin.call("list_disks"), [])

    async def test_a_guest_that_does_not_shut_down(self) -> None:
        admin = await self.admin(deaf=True)
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("start_vm", vm)
        await admin.call("shutdown_vm", vm, 5)
        ec = await admin.call("commit_tasks")
        states = set()
        while any(await admin.call("get_task_state", ec)):
            states.add((await admin.call("get_vm", vm))["state"])
            await admin.running.pass_time(0.5)
        self.assertIn("didn't shut down within 5 s", (await admin.call("get_errors", ec))[0])
        self.assertEqual(states, {"stopping"} | (states & {"running"}))
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")

    def boot_slowly(self, admin: Client, seconds: float, answer: Callable[[], Deferred[None]]) -> list[float]:
        """Let guests ignore the first shutdowns. Returns the times of the requests. @param answer: to each request."""
        asked: list[float] = []
        shutdown = SimulatedConnection.shutdown

        def ask(connection: SimulatedConnection, uuid: str) -> Deferred[None]:
            asked.append(admin.running.clock.seconds())
            if asked[-1] < asked[0] + seconds:
                return answer()
            return shutdown(connection, uuid)

        self.patch(SimulatedConnection, "shutdown", ask)
        return asked

    async def test_a_booting_guest_is_asked_until_it_shuts_down(self) -> None:
        admin = await self.admin()
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("start_vm", vm)
        asked = self.boot_slowly(admin, 7.0, lambda: fail(NotReady("The guest boots.")))
        await admin.do("shutdown_vm", vm, 10)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")
        self.assertEqual(len(asked), 5, "not asked continuously")

    async def test_a_guest_that_missed_the_request_is_asked_again(self) -> None:
        admin = await self.admin()
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("start_vm", vm)
        asked = self.boot_slowly(admin, 5.0, lambda: succeed(None))
        await admin.do("shutdown_vm", vm, 30)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")
        self.assertEqual(len(asked), 2)

    async def test_a_repeated_request_that_fails_changes_nothing(self) -> None:
        admin = await self.admin()
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("start_vm", vm)
        answers = iter([succeed(None)])
        self.boot_slowly(admin, 15.0, lambda: next(answers, None) or fail(DriverError("It doesn't hear.")))
        await admin.do("shutdown_vm", vm, 30)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")

    async def test_a_guest_that_boots_for_too_long(self) -> None:
        admin = await self.admin()
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("start_vm", vm)
        asked = self.boot_slowly(admin, 60.0, lambda: fail(NotReady("The guest boots.")))
        code, words = await admin.fail("shutdown_vm", vm, 5)
        self.assertEqual((code, words), (409, "The guest boots."))
        self.assertEqual([when - asked[0] for when in asked], [0, 2, 4])
        self.assertGreaterEqual(admin.running.clock.seconds() - asked[0], 5, "the whole timeout is used")
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")

    async def test_lists(self) -> None:
        admin = await self.admin()
        for number in range(7):
            await admin.call("create_vm", {"name": f"vm{number}", "memory": 16 * (1 + number % 2)})
        await admin.commit()
        ids = [vm["id"] for vm in await admin.call("list_vms")]
        self.assertEqual(ids, sorted(ids))
        self.assertEqual(len(ids), 7)
        self.assertEqual([vm["name"] for vm in await admin.call("list_vms", {"memory": 32})], ["vm1", "vm3", "vm5"])
        first = await admin.call("list_vms", {"fields": ["name", "id"], "limit": 1})
        self.assertEqual(first, [{"name": "vm0", "id": ids[0]}])
        page = await admin.call("list_vms", {"limit": 2, "after": ids[2]})
        self.assertEqual([vm["id"] for vm in page], ids[3:5])
        page = await admin.call("list_vms", {"limit": 2, "after": ids[2], "memory": 16, "fields": ["id"]})
        self.assertEqual(page, [{"id": ids[4]}, {"id": ids[6]}])
        self.assertEqual(await admin.call("list_vms", {"limit": 0}), [])
        self.assertEqual(await admin.call("list_vms", {"tags": ["x"]}), [])
        words = await self.refused(-32602, admin.call("list_vms", {"colour": "red"}))
        self.assertIn("filter.colour", words)

    async def test_placement(self) -> None:
        admin = await self.admin(memory=1024, labels=["small"])
        big = await admin.node("node2", memory=4096, labels=["big", "ssd"])
        for spec, node in (
            ({"memory": 512}, big),
            ({"labels": ["small"]}, self.node),
            ({"labels": ["ssd"]}, big),
            ({"driver": "simulator"}, big),
        ):
            vm = await admin.do("create_vm", {"name": f"vm{node}-{len(repr(spec))}", **spec})
            self.assertEqual((await admin.call("get_vm", vm))["compute_node"], node, spec)
        code, words = await admin.fail("create_vm", {"name": "huge", "memory": 9000, "labels": ["big"]})
        self.assertEqual(code, 503)
        self.assertIn("node1: no label big", words)
        self.assertIn("node2: memory, ", words)

    async def test_usage_of_a_node(self) -> None:
        admin = await self.admin()
        vm = await admin.do("create_vm", {"name": "web", "memory": 256, "vcpus": 3})
        node = await admin.call("get_compute_node", self.node)
        self.assertEqual((node["vms"], node["memory_used"], node["vcpus_used"]), (1, 256, 3))
        await admin.do("delete_vm", vm)
        node = await admin.call("get_compute_node", self.node)
        self.assertEqual((node["vms"], node["memory_used"], node["vcpus_used"]), (0, 0, 0))


class DiskTests(ServerCase):
    async def test_life(self) -> None:
        admin = await self.serve().login()
        node = await admin.node()
        disk = await admin.do("create_disk", {"name": "data", "size": 100, "compute_node": node})
        found = await admin.call("get_disk", disk)
        self.assertEqual((found["state"], found["size"], found["pool"]), ("ready", 100, "default"))
        self.assertNotIn("vm", found)
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("attach_disk", vm, disk, {"target": "vdc"})
        self.assertEqual((await admin.call("get_disk", disk))["target"], "vdc")
        self.assertEqual((await admin.fail("delete_disk", disk))[0], 409)
        self.assertEqual((await admin.fail("attach_disk", vm, disk))[0], 409)
        await admin.do("detach_disk", vm, disk)
        self.assertEqual((await admin.fail("detach_disk", vm, disk))[0], 409)
        await admin.do("delete_disk", disk)
        await self.refused(404, admin.call("get_disk", disk))

    async def test_on_another_node(self) -> None:
        admin = await self.serve().login()
        one, two = await admin.node("one"), await admin.node("two")
        disk = await admin.do("create_disk", {"name": "data", "size": 1, "compute_node": one})
        vm = await admin.do("create_vm", {"name": "web", "compute_node": two})
        self.assertEqual((await admin.fail("attach_disk", vm, disk))[0], 409)

    async def test_bad_format_and_pool(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        self.assertEqual((await admin.fail("create_disk", {"name": "data", "size": 1, "format": "vhdx"}))[0], -32602)
        self.assertEqual((await admin.fail("create_disk", {"name": "data", "size": 1, "pool": "no-such"}))[0], 404)
        self.assertEqual(await admin.call("list_disks"), [])

    async def test_a_disk_of_another_user(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        disk = await admin.do("create_disk", {"name": "data", "size": 1})
        alice = await admin.user("alice")
        vm = await alice.do("create_vm", {"name": "web"})
        await self.refused(404, alice.call("attach_disk", vm, disk))
        await self.refused(404, alice.call("create_vm", {"name": "web2", "disks": [{"disk": disk}]}))


class NodeTests(ServerCase):
    async def test_add(self) -> None:
        admin = await self.serve().login()
        node = await admin.node(vcpus=8, memory=4096, labels=["x"])
        found = await admin.call("get_compute_node", node)
        self.assertEqual((found["state"], found["mode"], found["vcpus"], found["memory"]), ("online", "active", 8, 4096))
        self.assertEqual((found["labels"], found["driver"], found["address"]), (["x"], "simulator", ""))
        await self.refused(409, admin.call("add_compute_node", "node1", "simulator", "", {}))

    async def test_bad_options(self) -> None:
        admin = await self.serve().login()
        for options, path in (
            ({"delay": "x"}, "options.delay"),
            ({"x": 1}, "options.x"),
            ({"fail": ["fly"]}, "options.fail[0]"),
        ):
            self.assertIn(path, await self.refused(-32602, admin.call("add_compute_node", "n", "simulator", "", options)))
        self.assertIn("driver", await self.refused(-32602, admin.call("add_compute_node", "n", "hyper-x", "", {})))

    async def test_one_that_cannot_be_reached(self) -> None:
        admin = await self.serve().login()
        node = await admin.node(fail=["connect"])
        found = await admin.call("get_compute_node", node)
        self.assertEqual(found["state"], "offline")
        self.assertTrue(found["reason"])
        code, words = await admin.fail("create_vm", {"name": "web", "compute_node": node})
        self.assertEqual(code, 503)
        self.assertIn("offline", words)

    async def test_plain_users_do_not_see_addresses(self) -> None:
        admin = await self.serve().login()
        node = await admin.node(fail=["connect"])
        alice = await admin.user("alice")
        for found in (await alice.call("get_compute_node", node), (await alice.call("list_compute_nodes"))[0]):
            self.assertEqual(found["name"], "node1")
            self.assertNotIn("address", found)
            self.assertNotIn("reason", found)
        self.assertEqual(await alice.call("list_compute_nodes", {"address": ""}), [])
        self.assertEqual(await alice.call("list_compute_nodes", {"fields": ["address"]}), [{}])


class UserTests(ServerCase):
    async def test_create(self) -> None:
        admin = await self.serve().login()
        options = {"role": "auditor", "full_name": "Alice <A>", "email": "a@b"}
        user = await admin.do("create_user", "alice", PASSWORD, options)
        found = await admin.call("get_user", user)
        self.assertEqual((found["role"], found["full_name"], found["enabled"]), ("auditor", "Alice <A>", True))
        self.assertNotIn("last_login", found)
        await admin.running.login("alice")
        self.assertIn("last_login", await admin.call("get_user", user))
        await self.refused(409, admin.call("create_user", "alice", PASSWORD))

    async def test_a_user_sees_itself_only(self) -> None:
        admin = await self.serve().login()
        alice = await admin.user("alice")
        self.assertEqual([user["name"] for user in await alice.call("list_users")], ["alice"])
        self.assertEqual(len(await admin.call("list_users")), 2)


class RestartTests(ServerCase):
    async def test_everything_survives(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "web", "disks": [{"size": 1}]})
        await admin.do("start_vm", vm)
        lists = (("list_vms", ["id", "name", "state"]), ("list_disks", ["id", "path", "vm"]), ("list_users", ["id", "name"]))
        before = [await admin.call(method, {"fields": fields}) for method, fields in lists]
        contexts = await admin.call("list_execution_contexts")
        admin = await (await self.restart(running)).login()
        await admin.do("stop_vm", vm)  # waits until the node is connected
        await admin.do("start_vm", vm)
        after = [await admin.call(method, {"fields": fields}) for method, fields in lists]
        self.assertEqual(before, after)
        self.assertEqual((await admin.call("list_execution_contexts"))[2:], contexts)
        self.assertEqual((await admin.call("get_compute_node", node))["state"], "online")


class SystemTests(ServerCase):
    async def test_introspection_without_a_session(self) -> None:
        running = self.serve()
        methods = await running.call("system.listMethods")
        for name in methods:
            self.assertTrue(await running.call("system.methodHelp", name), name)
            signatures = await running.call("system.methodSignature", name)
            self.assertTrue(all(isinstance(part, str) for signature in signatures for part in signature), name)
        self.assertEqual(await running.call("system.methodSignature", "get_vm"), [["struct", "int", "int"]])
        self.assertEqual(await running.call("system.methodSignature", "logout"), [["boolean", "int"]])
        signatures = [["int", "string", "string"], ["int", "string", "string", "string"]]
        self.assertEqual(await running.call("system.methodSignature", "authenticate"), signatures)
        signatures = [["int", "int", "int"], ["int", "int", "int", "struct"]]
        self.assertEqual(await running.call("system.methodSignature", "delete_vm"), signatures)
        self.assertIn("16 to", await running.call("system.methodHelp", "set_vm_memory"))
        await self.refused(-32601, running.call("system.methodHelp", "fly"))
        await self.refused(-32601, running.call("fly"))
        await self.refused(-32602, running.call("system.listMethods", 1))

    async def test_multicall(self) -> None:
        running = self.serve()
        admin = await running.login()
        calls = [
            {"methodName": "get_session", "params": [admin.cookie]},
            {"methodName": "fly", "params": []},
            {"methodName": "authenticate", "params": ["admin", PASSWORD]},
            {"methodName": "system.multicall", "params": [[]]},
            {"methodName": "get_vm", "params": [admin.cookie, 5]},
            {"methodName": 5},
            "x",
        ]
        answers = await running.call("system.multicall", calls)
        self.assertEqual(answers[0][0]["user"], 1)
        self.assertIsInstance(answers[2][0], int)
        codes = [answer["faultCode"] for answer in answers if isinstance(answer, dict)]
        self.assertEqual(codes, [-32601, -32600, 404, -32600, -32600])
        await self.refused(-32602, running.call("system.multicall", [{}] * 1001))

    async def test_a_bug_is_an_incident(self) -> None:
        running = self.serve()
        admin = await running.login()
        self.patch(running.server.inventory.log, "since", None)
        words = await self.refused(-32603, admin.call("ping"))
        incident = words.rsplit(" ", 1)[1].rstrip(".")
        logged = self.flushLoggedErrors(TypeError)
        self.assertEqual(len(logged), 1)
        self.assertEqual(len(incident), 12)
