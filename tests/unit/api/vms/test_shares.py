"""The shares and rates of a resource plan, applied to the VMs of its users."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import succeed

from fluidvm.driver import Shares
from fluidvm.drivers.simulator.driver import SimulatedConnection
from fluidvm.drivers.simulator.host import SimulatedHost
from tests.support import PASSWORD, Client
from tests.unit.api.accounts.test_plans import QuotaCase

PLAN = {"cpu_shares": 512, "disk_iops": 100, "disk_mbps": 10, "network_mbps": 50}
MORE = {"cpu_shares": 2048, "disk_iops": 500}


class ShareTests(QuotaCase):
    async def held(self, client: Client) -> list[Shares]:
        """The limits that the simulated host applies to the client's VMs."""
        uuids = [vm["uuid"] for vm in await client.call("list_vms")]
        hosts = {domain.uuid: host for host in list(SimulatedHost._hosts.values()) for domain in host.domains()}
        return [hosts[uuid].shares(uuid) for uuid in uuids]

    async def shown(self, client: Client, vm: int) -> Any:
        """The shares that C{get_vm} returns."""
        return (await client.call("get_vm", vm)).get("shares", {})

    async def test_a_new_vm_gets_the_shares_of_its_owners_plan(self) -> None:
        admin, alice = await self.start(PLAN)
        vm = await alice.do("create_vm", {"name": "a", "disks": [{"size": 1}], "interfaces": [{"network": "lan"}]})
        self.assertEqual(await self.shown(alice, vm), PLAN)
        self.assertEqual(await self.held(alice), [Shares(**PLAN)])
        copy = await alice.do("clone_vm", vm, "b")
        self.assertEqual(await self.shown(alice, copy), PLAN)
        self.assertEqual(await self.held(alice), 2 * [Shares(**PLAN)])
        free = await admin.do("create_vm", {"name": "c", "disks": [{"size": 1}]})
        self.assertEqual(await self.shown(admin, free), {})
        self.assertEqual((await self.held(admin))[2], Shares())

    async def test_an_existing_vm_gets_new_shares_when_it_grows(self) -> None:
        admin, alice = await self.start(PLAN)
        vm = await alice.do("create_vm", {"name": "a", "disks": [{"size": 1}]})
        await admin.do("set_resource_plan", self.plan, MORE)
        await alice.do("set_vm_memory", vm, 256)
        self.assertEqual(await self.shown(alice, vm), PLAN, "it didn't grow")
        await alice.do("set_vm_memory", vm, 512)
        await alice.do("set_vm_memory", vm, 1024)
        self.assertEqual((await self.shown(alice, vm), await self.held(alice)), (MORE, [Shares(**MORE)]))
        await alice.do("start_vm", vm)
        await admin.do("set_resource_plan", self.plan, PLAN)
        await alice.do("attach_interface", vm, {"network": "lan"})
        self.assertEqual((await self.shown(alice, vm), await self.held(alice)), (PLAN, [Shares(**PLAN)]))
        await alice.do("attach_disk", vm, await alice.do("create_disk", {"name": "d", "size": 1, "compute_node": 1}))
        self.assertEqual(await self.held(alice), [Shares(**PLAN)], "the new disk, too")
        await admin.do("set_resource_plan", self.plan, {})
        await alice.do("attach_disk", vm, await alice.do("create_disk", {"name": "e", "size": 1, "compute_node": 1}))
        self.assertEqual((await self.shown(alice, vm), await self.held(alice)), ({}, [Shares()]))

    async def test_they_survive_a_restart_and_a_new_definition(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        plan = await admin.do("create_resource_plan", "small", PLAN)
        user = await admin.do("create_user", "alice", PASSWORD, {"resource_plan": plan})
        spec = {"name": "a", "disks": [{"size": 1}], "interfaces": [{"network": "lan"}], "owner": user}
        vm = await admin.do("create_vm", spec)
        admin = await (await self.restart(running)).login()
        self.assertEqual(await self.shown(admin, vm), PLAN)
        await admin.do("set_vm_autostart", vm, True)
        self.assertEqual(await self.held(admin), [Shares(**PLAN)])

    async def test_a_host_that_does_not_support_them(self) -> None:
        _, alice = await self.start(PLAN)
        self.patch(SimulatedConnection, "shareable", lambda connection: succeed(("cpu_shares",)))
        vm = await alice.do("create_vm", {"name": "a", "disks": [{"size": 1}]})
        self.assertEqual((await self.shown(alice, vm), await self.held(alice)), ({"cpu_shares": 512}, [Shares(512)]))

    async def test_a_hypervisor_that_fails(self) -> None:
        _, alice = await self.start(PLAN, fail=["set_shares"])
        vm = await alice.do("create_vm", {"name": "a", "disks": [{"size": 1}]})
        code, words = await alice.fail("attach_interface", vm, {"network": "lan"})
        self.assertEqual(code, 503, words)
        self.assertEqual(len((await alice.call("get_vm", vm))["interfaces"]), 1, "the interface was attached nevertheless")
