"""One bad value doesn't break a list: input is bounded, and objects that still can't be shown are listed as broken."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs

from fluidvm.api.vms import guests
from fluidvm.driver import DriverError, GuestOutput, HostInfo
from fluidvm.drivers.simulator.driver import SimulatedConnection
from fluidvm.images.files import Inspected
from fluidvm.model.xmlvalue import INT_HIGH
from tests.support import ServerCase
from tests.unit.api.storage.test_images import ImageCase

HUGE = 16 * 1024 * 1024
"""MiB: the maximum of one VM."""


class SumTests(ServerCase):
    async def test_vms_of_16_tib(self) -> None:
        admin = await self.serve().login()
        node = await admin.node(memory=INT_HIGH)
        for number in range(130):
            await admin.call("create_vm", {"name": f"vm{number}", "memory": HUGE, "compute_node": node, "force": True})
        await admin.commit()
        (shown,) = await admin.call("list_compute_nodes")
        self.assertEqual((shown["vms"], shown["memory_used"], type(shown["memory_used"])), (130, 130 * HUGE, float))
        self.assertEqual(len(await admin.call("list_compute_nodes", {"memory_used": shown["vms"]})), 0)
        told = await admin.call("get_compute_node_stats", node)
        self.assertEqual(told["memory_used_by_vms"], 130 * HUGE)
        self.assertEqual((await admin.call("get_user_usage", 1))["memory"]["used"], 130 * HUGE)


class DriverTests(ServerCase):
    """Values that nodes and guests report."""

    async def test_an_exit_code_beyond_32_bits(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("start_vm", vm)
        said = GuestOutput(2**40, "\0\ud800", "x")
        self.patch(SimulatedConnection, "run_in_guest", lambda *arguments: succeed(said))
        await admin.do("run_in_vm", vm, ["true"])
        (context,) = await admin.call("list_execution_contexts", {"limit": 1})
        self.assertEqual(context["results"], [{"code": INT_HIGH, "stdout": "\ufffd\ufffd", "stderr": "x"}])

    async def test_a_result_that_cannot_be_sent_is_not_stored(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "web"})

        class Lying:
            def run_in_guest(self, *arguments: Any) -> Deferred[GuestOutput]:
                return succeed(GuestOutput(2**40, "", ""))

        async def guest(*arguments: Any) -> tuple[str, Lying]:
            return "", Lying()  # without the checks that a node's connection has

        self.patch(guests, "_guest", guest)
        self.assertEqual((await admin.fail("run_in_vm", vm, ["true"]))[0], -32603)
        self.assertEqual(len(self.flushLoggedErrors(OverflowError)), 1)
        self.assertEqual(len(await admin.call("list_execution_contexts")), 3)

    async def test_a_host_that_lies(self) -> None:
        admin = await self.serve().login()
        self.patch(SimulatedConnection, "host_info", lambda self: succeed(HostInfo(2**40, 2**40, "v\0", "d")))
        await admin.node()
        (node,) = await admin.call("list_compute_nodes")
        self.assertEqual((node["vcpus"], node["memory"], node["hypervisor_version"]), (INT_HIGH, INT_HIGH, "v\ufffd"))

    async def test_words_of_an_error(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "web"})

        def fails(*arguments: Any) -> Any:
            raise DriverError("the guest says \0\ud800\x1b[2J" + "x" * 10**6)

        self.patch(SimulatedConnection, "start", fails)
        code, words = await admin.fail("start_vm", vm)
        self.assertEqual((code, words[:30], len(words)), (503, "the guest says \ufffd\ufffd\ufffd[2Jxxxxxxxxx", 10_000))


class ImageTests(ImageCase):
    async def refused_image(self) -> str:
        code, words = await self.admin.fail("import_image", {"name": "huge", "format": "qcow2", "upload": "up"})
        self.assertEqual(code, 409, words)
        self.assertEqual([image["name"] for image in await self.admin.call("list_images")], ["os"])
        return words

    async def test_an_image_of_2_to_the_61_bytes(self) -> None:
        """A qcow2 header of version 3 with clusters of 64 KiB claims this size."""
        await self.imported()
        head = b"QFI\xfb" + struct.pack(
            ">IQIIQIIQQIIQQQQII", 3, 0, 0, 16, 2**61, 0, 1, 2**17, 2**16, 1, 0, 0, 0, 0, 0, 4, 104
        )
        await self.upload(head.ljust(2**20, b"\0"))
        await self.refused_image()

    async def test_the_largest_disk(self) -> None:
        await self.imported()
        found = Inspected(INT_HIGH + 1, 1, "0" * 64)
        self.patch(self.files, "finish", lambda *arguments: succeed(found))
        await self.upload(b"x")
        self.assertIn("a disk can have at most 2147483647 MiB", await self.refused_image())


class BrokenTests(ServerCase):
    """Objects with bad values in spite of the checks, as in a database that an older server wrote."""

    async def test_each_list(self) -> None:
        running = self.serve()
        admin = await running.login()
        alice = await admin.user("alice")
        await admin.node("node1")
        await admin.node("node2")
        await admin.do("create_resource_plan", "one", {})
        await admin.do("create_resource_plan", "two", {})
        for name in ("one", "two"):
            await alice.do("create_vm", {"name": name, "compute_node": 1, "disks": [{"size": 1, "format": "raw"}]})
        await admin.do("create_image", 1, "one")
        await admin.do("create_image", 2, "two")
        inventory = running.server.inventory
        bad: dict[str, tuple[str, dict[str, Any]]] = {
            "vm": ("list_vms", {"memory": 2**40}),
            "disk": ("list_disks", {"size": 2**40}),
            "compute_node": ("list_compute_nodes", {"vcpus": 2**40}),
            "image": ("list_images", {"size": object()}),
            "resource_plan": ("list_resource_plans", {"limits": {"vms": 2**40}}),
            "user": ("list_users", {"email": 5.0e400}),
        }
        for type_name, (method, values) in bad.items():
            (name,) = {one["name"] for one in await admin.call(method, {"fields": ["name", "id"]}) if one["id"] == 1}
            inventory.update_untracked(type_name, 1, **values)
            broken = {"id": 1, "name": name, "broken": True}
            with capturedLogs() as logs:
                for _ in range(3):
                    found = await admin.call(method)
                    self.assertEqual(found[0], broken)
                    self.assertEqual((found[1]["id"], len(found[1]) > 4), (2, True))
                    self.assertEqual(await admin.call(f"get_{type_name}", 1), broken)
                    (field,) = values
                    self.assertIn(broken, await admin.call(method, {"fields": [field]}))
                    self.assertIn({"id": 1, "name": name}, await admin.call(method, {"fields": ["id", "name"]}))
                    self.assertEqual([one["id"] for one in await admin.call(method, {"id": 2})], [2])
                if type_name != "image":
                    await alice.call(method)
            self.assertEqual(len([event for event in logs if "can't be shown" in event["log_format"]]), 1, type_name)
        self.flushLoggedErrors()

    async def test_objects_whose_wire_form_cannot_be_built(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        running.server.inventory.update_untracked("compute_node", 1, labels=None)
        self.assertEqual(await admin.call("list_compute_nodes"), [{"id": 1, "name": "node1", "broken": True}])
        self.assertEqual(await admin.call("list_compute_nodes", {"labels": ["x"]}), [])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    async def test_execution_contexts(self) -> None:
        running = self.serve()
        admin = await running.login()
        first = await admin.commit()
        await admin.do("create_user", "alice", "a long password")
        ec = first + 1
        running.server._engine._contexts[ec].tasks[0].row.result = 2**40
        for _ in range(2):
            listed = await admin.call("list_execution_contexts")
            self.assertEqual((listed[0], listed[1]["id"]), ({"id": ec, "broken": True}, first))
        found = await admin.call("list_execution_contexts", {"fields": ["results"]})
        self.assertEqual(found, [{"id": ec, "broken": True}, {"results": []}])
        self.assertLessEqual(len(self.flushLoggedErrors(OverflowError)), 1)
