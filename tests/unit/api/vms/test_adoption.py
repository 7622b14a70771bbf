from __future__ import annotations

import uuid
from typing import Any

from fluidvm.driver import Boot, DomainDisk, DomainInterface, DomainSpec
from tests.support import Running, ServerCase
from tests.unit.api.nodes.test_nodes import simulated

MAC = "02:00:00:00:00:01"


def stranger(running: Running, node: int, name: str = "db server", disks: int = 1, **changes: Any) -> str:
    """Create a guest directly on the host. Returns its UUID."""
    host = simulated(running, node)
    volumes = [host.create_volume("default", f"{uuid.uuid4().hex}.img", 10, "raw") for _ in range(disks)]
    fields = {
        "uuid": str(uuid.uuid4()),
        "name": name,
        "vcpus": 2,
        "max_vcpus": 4,
        "memory": 100,
        "max_memory": 200,
        "disks": tuple(DomainDisk(volume.path, "raw", "vd" + "abc"[place]) for place, volume in enumerate(volumes)),
        "boot": Boot("/boot/vmlinuz", "", "quiet"),
        "autostart": True,
    }
    spec = DomainSpec(**{**fields, **changes})
    host.define(spec)
    return spec.uuid


class AdoptionTests(ServerCase):
    async def test_a_running_guest_is_taken_over(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        alice = await admin.user("alice")
        uuid = stranger(running, node, disks=2, interfaces=(DomainInterface(MAC, "lan", "e1000"),))
        host = simulated(running, node)
        host.start(uuid)
        before = host.domain(uuid)
        await admin.call("ping")
        vm = await admin.do("adopt_vm", node, uuid, 2)
        self.assertEqual(host.domain(uuid), before)
        self.assertIn({"type": "vm", "id": vm, "change": "created"}, await alice.call("ping"))
        shown = await alice.call("get_vm", vm)
        wanted = {
            "name": "db-server",
            "owner": 2,
            "state": "running",
            "uuid": uuid,
            "compute_node": node,
            "vcpus": 2,
            "max_vcpus": 4,
            "memory": 100,
            "max_memory": 200,
            "autostart": True,
            "driver": "simulator",
            "boot": {"kernel": "/boot/vmlinuz", "cmdline": "quiet"},
        }
        self.assertEqual({key: shown[key] for key in wanted}, wanted)
        (plug,) = shown["interfaces"]
        self.assertEqual((plug["mac"], plug["network"], plug["model"]), (MAC, "lan", "e1000"))
        disks = [await alice.call("get_disk", disk) for disk in shown["disks"]]
        told = [(disk["name"], disk["target"], disk["size"], disk["format"], disk["state"], disk["path"]) for disk in disks]
        self.assertEqual(
            told, [(f"db-server-{disk.target}", disk.target, 10, "raw", "ready", disk.path) for disk in before.disks]
        )
        self.assertEqual(await admin.call("list_foreign_vms", node), [])
        host.stop(uuid)
        await self.until(lambda: running.server.inventory.vm_of(uuid).state == "stopped")  # type: ignore[union-attr]
        await alice.do("set_vm_autostart", vm, False)
        self.assertEqual((host.domain(uuid).name, host.domain(uuid).disks), ("db server", before.disks))
        await alice.do("start_vm", vm)
        await alice.do("stop_vm", vm)
        await alice.do("delete_vm", vm)
        self.assertEqual((host.domains(), host.all_volumes()), ([], []))

    async def test_who_may_adopt_and_which_guests(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        uuid = stranger(running, node)
        alice = await admin.user("alice")
        await self.refused(403, alice.call("adopt_vm", node, uuid, 2))
        await self.refused(-32602, admin.call("adopt_vm", node, "x' or 1", 2))
        self.assertEqual((await admin.fail("adopt_vm", node, "0" * 8 + "-0000-0000-0000-" + "0" * 12, 2))[0], 404)
        await admin.do("adopt_vm", node, uuid, 2)
        code, words = await admin.fail("adopt_vm", node, uuid, 1)
        self.assertEqual((code, "is already VM db-server" in words), (409, True))

    async def test_within_the_plan(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        plan = await admin.do("create_resource_plan", "small", {"vms": 1, "running_vms": 0, "disk_space": 15})
        await admin.user("alice")
        await admin.do("set_user_resource_plan", 2, plan)
        uuid = stranger(running, node)
        big = stranger(running, node, "big", disks=2)
        self.assertIn("disk_space", (await admin.fail("adopt_vm", node, big, 2))[1])
        simulated(running, node).start(uuid)
        code, words = await admin.fail("adopt_vm", node, uuid, 2)
        self.assertEqual((code, "running_vms" in words), (507, True))
        self.assertEqual((await admin.call("list_vms"), await admin.call("list_disks")), ([], []))
        simulated(running, node).stop(uuid)
        await admin.do("adopt_vm", node, uuid, 2)
        self.assertEqual((await admin.call("get_user_usage", 2))["disk_space"]["used"], 10)

    async def test_names(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        await admin.do("create_vm", {"name": "web"})
        uuid = stranger(running, node, "web")
        odd = stranger(running, node, "<&>")
        taken = await admin.do("adopt_vm", node, uuid, 1)
        strange = await admin.do("adopt_vm", node, odd, 1)
        names = [(await admin.call("get_vm", vm))["name"] for vm in (taken, strange)]
        self.assertEqual(names, [f"web-{uuid[:8]}", "vm----"])

    async def test_disks_and_addresses_of_other_vms(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        host = simulated(running, node)
        await admin.do("create_vm", {"name": "one", "disks": [{"size": 1}], "interfaces": [{"network": "lan", "mac": MAC}]})
        ours = DomainDisk((await admin.call("get_disk", 1))["path"], "qcow2", "vda")
        uuid = stranger(running, node, "a", disks=(0), interfaces=(DomainInterface(MAC, "lan"),))
        self.assertIn(MAC, (await admin.fail("adopt_vm", node, uuid, 1))[1])
        uuid = stranger(running, node, "b")
        host.attach(uuid, DomainDisk(ours.path, "qcow2", "vdb"))
        code, words = await admin.fail("adopt_vm", node, uuid, 1)
        self.assertEqual((code, "is already disk one-vda" in words), (409, True))
        first = stranger(running, node, "c")
        second = stranger(running, node, "d", disks=0)
        host.attach(second, host.domain(first).disks[0])
        code, words = await admin.fail("adopt_vm", node, first, 1)
        self.assertEqual((code, "domain d" in words), (409, True))
        odd = stranger(running, node, "e", disks=0)
        volume = host.create_volume("default", "z", 1, "raw")
        host.attach(odd, DomainDisk(volume.path, "raw", "sda"))
        self.assertEqual((await admin.fail("adopt_vm", node, odd, 1))[0], 501)
        other = stranger(running, node, "f", disks=0)
        host.attach(other, DomainDisk(volume.path, "qcow2", "vda"))
        code, words = await admin.fail("adopt_vm", node, other, 1)
        self.assertEqual((code, "f can't be taken over: its disk vda" in words and "not qcow2" in words), (501, True), words)
        self.assertEqual(len(await admin.call("list_vms")), 1)

    async def test_interrupted(self) -> None:
        """The server stops after it has stored the VM, before it has read its state again."""
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        uuid = stranger(running, node)
        inventory = running.server.inventory
        connection = running.server._nodes._watches[node].connection._connection
        faults, get = connection._faults, connection.get_domain

        def once(asked: str) -> Any:
            faults._hang = frozenset(["get_domain"])  # from the second call on
            faults_now, faults._hang = faults._hang, frozenset()
            answer = get(asked)
            faults._hang = faults_now
            return answer

        running.server._nodes._watches[node].connection.__dict__["get_domain"] = once
        vm = await admin.call("adopt_vm", node, uuid, 1)
        ec = await admin.call("commit_tasks")
        await self.until(lambda: inventory.vm_of(uuid) is not None)
        running = await self.restart(running)
        admin = await running.login()
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), [""])
        self.assertEqual(((await admin.call("get_vm", vm))["state"], len(await admin.call("list_disks"))), ("stopped", 1))

    async def test_planned(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        uuid = stranger(running, node)
        vm = await admin.call("adopt_vm", node, uuid, 1)
        await admin.call("start_vm", vm)
        await admin.call("adopt_vm", node, uuid, 1)
        await admin.call("adopt_vm", node, "0" * 8 + "-0000-0000-0000-" + "0" * 12, 1)
        self.assertEqual([line["code"] for line in await admin.call("plan_tasks")], [0, 0, 409, 404])
        self.assertEqual(await admin.call("list_vms"), [])
        ec = await admin.commit()
        codes = [task["code"] for task in (await admin.call("get_execution_context", ec))["tasks"]]
        self.assertEqual(codes, [0, 0, 409, 404])
