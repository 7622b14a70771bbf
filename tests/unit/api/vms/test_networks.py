from __future__ import annotations

import re

from tests.support import Running, ServerCase
from tests.unit.api.nodes.test_nodes import simulated


def faults(running: Running, node: int) -> object:
    """The faults to inject on a simulated node."""
    return running.server._nodes._watches[node].connection._connection._faults


class InterfaceTests(ServerCase):
    async def test_a_vm_is_made_with_interfaces(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        plugs = [
            {"network": "default"},
            {"network": "lan", "mac": "02:00:00:00:00:AB", "address": "192.0.2.7", "model": "e1000"},
        ]
        vm = await admin.do("create_vm", {"name": "one", "interfaces": plugs})
        one, two = (await admin.call("get_vm", vm))["interfaces"]
        self.assertEqual(set(one), {"id", "network", "mac"})
        self.assertTrue(re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", one["mac"]), one)
        self.assertEqual(
            two, {"id": two["id"], "network": "lan", "mac": "02:00:00:00:00:ab", "address": "192.0.2.7", "model": "e1000"}
        )
        (domain,) = simulated(running, node).domains()
        told = [(plug.mac, plug.network, plug.model) for plug in domain.interfaces]
        self.assertEqual(told, [(one["mac"], "default", ""), (two["mac"], "lan", "e1000")])
        await admin.do("set_vm_autostart", vm, True)
        (domain,) = simulated(running, node).domains()
        self.assertEqual(len(domain.interfaces), 2)
        running = await self.restart(running)
        admin = await running.login()
        self.assertEqual((await admin.call("get_vm", vm))["interfaces"], [one, two])
        code, words = await admin.fail("create_vm", {"name": "two", "interfaces": [{"network": "lan", "mac": one["mac"]}]})
        self.assertEqual((code, one["mac"] in words), (409, True))

    async def test_invalid_interfaces(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        for wrong in (
            {},
            {"network": "default", "mac": "01:00:00:00:00:01"},
            {"network": "default", "mac": "fe:00:00:00:00:01"},
            {"network": "default", "mac": "52:54:00:1:2:3"},
            {"network": "default", "address": "192.0.2.256"},
            {"network": "default", "model": "<e1000/>"},
            {"network": "../x"},
        ):
            await self.refused(-32602, admin.call("create_vm", {"name": "one", "interfaces": [wrong]}))

    async def test_a_network_that_does_not_exist(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        code, words = await admin.fail("create_vm", {"name": "one", "interfaces": [{"network": "nowhere"}]})
        self.assertEqual((code, "nowhere" in words), (404, True))
        self.assertEqual((await admin.call("list_vms"), simulated(running, node).domains()), ([], []))
        vm = await admin.do("create_vm", {"name": "one"})
        self.assertEqual((await admin.fail("attach_interface", vm, {"network": "nowhere"}))[0], 404)
        self.assertEqual((await admin.call("get_vm", vm))["interfaces"], [])

    async def test_attached_and_detached(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "one"})
        await admin.do("start_vm", vm)
        await admin.call("attach_interface", vm, {"network": "lan"})
        ec = await admin.commit()
        (interface,) = await admin.call("get_results", ec)
        (shown,) = (await admin.call("get_vm", vm))["interfaces"]
        self.assertEqual((shown["id"], shown["network"]), (interface, "lan"))
        (domain,) = simulated(running, node).domains()
        self.assertEqual([plug.mac for plug in domain.interfaces], [shown["mac"]])
        other = await admin.do("create_vm", {"name": "two"})
        code, _ = await admin.fail("attach_interface", other, {"network": "lan", "mac": shown["mac"]})
        self.assertEqual(code, 409)
        self.assertEqual((await admin.fail("detach_interface", other, interface))[0], 404)
        await admin.do("detach_interface", vm, interface)
        self.assertEqual((await admin.call("get_vm", vm))["interfaces"], [])
        self.assertEqual(simulated(running, node).domain(domain.uuid).interfaces, ())
        await admin.do("attach_interface", other, {"network": "lan", "mac": shown["mac"]})
        await admin.do("delete_vm", other)
        await admin.do("attach_interface", vm, {"network": "lan", "mac": shown["mac"]})

    async def test_two_at_once_never_get_the_same_address(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(delay=0.5)
        plug = {"network": "lan", "mac": "02:00:00:00:00:01"}
        first, second = [await running.login() for _ in range(2)]
        await first.call("create_vm", {"name": "one", "interfaces": [plug]})
        await second.call("create_vm", {"name": "two", "interfaces": [plug]})
        ecs = [await first.call("commit_tasks"), await second.call("commit_tasks")]
        for ec in ecs:
            await admin.finish(ec)
        errors = [(await admin.call("get_errors", ec))[0] for ec in ecs]
        self.assertEqual(sorted(bool(error) for error in errors), [False, True], errors)
        self.assertEqual(len(await admin.call("list_vms")), 1)

    async def test_a_failed_attachment_leaves_nothing(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "one"})
        faults(running, node)._fail = frozenset(["attach_interface"])  # type: ignore[attr-defined]
        plug = {"network": "lan", "mac": "02:00:00:00:00:01"}
        self.assertEqual((await admin.fail("attach_interface", vm, plug))[0], 503)
        self.assertEqual((await admin.call("get_vm", vm))["interfaces"], [])
        faults(running, node)._fail = frozenset()  # type: ignore[attr-defined]
        await admin.do("attach_interface", vm, plug)
        faults(running, node)._fail = frozenset(["detach_interface"])  # type: ignore[attr-defined]
        (interface,) = (await admin.call("get_vm", vm))["interfaces"]
        self.assertEqual((await admin.fail("detach_interface", vm, interface["id"]))[0], 503)
        self.assertEqual((await admin.call("get_vm", vm))["interfaces"], [interface])

    async def test_it_is_stored_before_the_hypervisor_is_asked(self) -> None:
        """The server stops while the hypervisor is being asked; the next one continues with the same address."""
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "one"})
        faults(running, node)._hang = frozenset(["attach_interface"])  # type: ignore[attr-defined]
        await admin.call("attach_interface", vm, {"network": "lan"})
        ec = await admin.call("commit_tasks")
        for _ in range(5):
            await running.pass_time(0.1)
        (planned,) = (await admin.call("get_vm", vm))["interfaces"]
        running = await self.restart(running)
        admin = await running.login()
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), [""])
        self.assertEqual((await admin.call("get_vm", vm))["interfaces"], [planned])
        (domain,) = simulated(running, node).domains()
        self.assertEqual([plug.mac for plug in domain.interfaces], [planned["mac"]])

    async def test_copied_with_other_addresses(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        plug = {"network": "lan", "address": "192.0.2.7", "model": "e1000"}
        vm = await admin.do("create_vm", {"name": "one", "interfaces": [plug]})
        copy = await admin.do("clone_vm", vm, "two")
        (one,), (two,) = [(await admin.call("get_vm", id))["interfaces"] for id in (vm, copy)]
        self.assertEqual((two["network"], two["model"], "address" in two), ("lan", "e1000", False))
        self.assertNotEqual((one["id"], one["mac"]), (two["id"], two["mac"]))

    async def test_networks(self) -> None:
        admin = await self.serve().login()
        node = await admin.node()
        networks = [{"name": "default", "active": True, "bridge": "sim0"}, {"name": "lan", "active": True, "bridge": "sim1"}]
        self.assertEqual(await admin.call("list_networks", node), networks)
        user = await admin.user("alice")
        self.assertEqual(await user.call("list_networks", node), networks)
        await admin.do("set_compute_node", node, {"user_networks": ["lan"]})
        self.assertEqual([network["name"] for network in await user.call("list_networks", node)], ["lan"])
        plug = {"network": "default"}
        self.assertEqual((await user.fail("create_vm", {"name": "one", "interfaces": [plug]}))[0], 403)
        vm = await user.do("create_vm", {"name": "one", "interfaces": [{"network": "lan"}]})
        self.assertEqual((await user.fail("attach_interface", vm, plug))[0], 403)
        await admin.do("attach_interface", vm, plug)

    async def test_planned(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        plug = {"network": "lan", "mac": "02:00:00:00:00:01"}
        vm = await admin.call("create_vm", {"name": "one", "interfaces": [plug]})
        await admin.call("attach_interface", vm, {"network": "lan"})
        await admin.call("attach_interface", vm, plug)
        await admin.call("detach_interface", vm, 7)
        self.assertEqual([line["code"] for line in await admin.call("plan_tasks")], [0, 0, 409, 404])
        await admin.commit()
        self.assertEqual(len((await admin.call("get_vm", vm))["interfaces"]), 2)
