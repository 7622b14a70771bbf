"""The wire contract, by a client that speaks XML-RPC over a socket and knows nothing else; guests are real."""

from __future__ import annotations

import shutil
import subprocess
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

import libvirt
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.xmlrpc import Proxy

from fluidvm.drivers.kvm import KvmConnection
from fluidvm.server.options import Options
from fluidvm.server.service import Server
from lab.host import guest
from tests import TIMEOUT
from tests.real.agent_guest import listening
from tests.real.real_host import CMDLINE, other_host, shared_host, until
from tests.support import CHEAP, PASSWORD, port_of
from tests.websocket_client import look


class ContractCase(TestCase):
    """A server, and a client of it."""

    async def setUp(self) -> None:
        self.lab = shared_host()
        self.guest = guest()
        directory = self.state = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "password").write_text(PASSWORD)
        options = Options()
        options.parseOptions(
            [
                "--state",
                str(directory),
                "--http",
                "tcp:0:interface=127.0.0.1",
                "--keepalive",
                "any-call",
                "--admin-password-file",
                str(directory / "password"),
                "--poll-interval",
                "3600",
                *CHEAP,
            ]
        )
        self.server = Server(options.settings, reactor)
        self.server.privilegedStartService()
        self.server.startService()
        self.addCleanup(self.server.stopService)
        port = port_of(self.server)
        self.proxy = Proxy(f"http://127.0.0.1:{port}/RPC2".encode())
        self.cookie = await self.proxy.callRemote("authenticate", "admin", PASSWORD)
        self.outside = libvirt.open(self.lab.uri)
        self.addCleanup(self.outside.close)
        self.pool = self.lab.directory / "contract-pool"
        self.addCleanup(self.clean_up)

    def clean_up(self) -> None:
        for domain in self.outside.listAllDomains(0):
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(KvmConnection.undefine_flags)
        for pool in self.outside.listAllStoragePools(0):
            if pool.name() == "contract":
                pool.destroy()
                pool.undefine()
        shutil.rmtree(self.pool, ignore_errors=True)

    def call(self, method: str, *arguments: Any) -> Deferred[Any]:
        return self.proxy.callRemote(method, self.cookie, *arguments)

    async def commit(self) -> list[str]:
        """Commit, watch, and give the errors."""
        ec = await self.call("commit_tasks")
        seen = [await self.call("get_task_progress", ec)]
        while not await self.call("wait_for_tasks", ec, 1):
            seen.append(await self.call("get_task_progress", ec))
            for before, after in zip(seen[-2], seen[-1], strict=True):
                self.assertLessEqual(before, after, "progress goes down")
        return await self.call("get_errors", ec)

    async def add_node(self) -> int:
        options = {
            "accelerator": "emulate",
            "pool": "contract",
            "pool_path": str(self.pool),
            "console_log_dir": str(self.lab.directory / "console"),
            "migration_uri": f"unix://{self.lab.directory}",
        }
        node: int = await self.call("add_compute_node", "real", "kvm", self.lab.uri, options)
        self.assertEqual(await self.commit(), [""])
        found = await self.call("get_compute_node", node)
        self.assertEqual(found["state"], "online", found)
        self.assertGreater(found["vcpus"], 0)
        self.assertIn("QEMU", found["hypervisor_version"])
        return node

    async def console(self, vm: int) -> str:
        uuid = (await self.call("get_vm", vm))["uuid"]
        log = self.lab.directory / "console" / f"{uuid}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    async def boots(self, vm: int, sign: str = "GUEST-UP") -> str:
        deadline = time.monotonic() + TIMEOUT
        while sign not in await self.console(vm):
            self.assertLess(time.monotonic(), deadline, await self.console(vm))
            await deferLater(reactor, 0.1, lambda: None)
        return await self.console(vm)

    def kernel(self, initrd: str = "initrd.gz") -> dict[str, str]:
        return {
            "kernel": str(self.guest / "vmlinux"),
            "initrd": str(self.guest / initrd),
            "cmdline": CMDLINE,
        }


class ContractTests(ContractCase):
    async def test_a_vm_is_moved(self) -> None:
        """To another host with its disks, stopped; and back from there with all that the node holds, while it runs."""
        one = await self.add_node()
        other = other_host()
        pool, console = other.directory / "contract-pool", other.directory / "console"
        console.mkdir(exist_ok=True)
        options = {"accelerator": "emulate", "pool": "contract", "pool_path": str(pool), "console_log_dir": str(console)}
        two = await self.call("add_compute_node", "other", "kvm", other.uri, options)
        disks = [{"size": 8, "pool": "contract", "format": format} for format in ("raw", "qcow2")]
        spec = {"name": "web", "memory": 128, "compute_node": one, "boot": self.kernel(), "disks": disks}
        vm = await self.call("create_vm", spec)
        self.assertEqual(await self.commit(), ["", ""])
        raw, qcow = [Path((await self.call("get_disk", id))["path"]) for id in (await self.call("get_vm", vm))["disks"]]
        with raw.open("r+b") as file:
            file.write(b"moved" * 1000)
        contents = raw.read_bytes(), qcow.read_bytes()
        await self.call("migrate_vm", vm, two, {"copy_storage": True})
        await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])
        record = await self.call("get_vm", vm)
        self.assertEqual((record["compute_node"], record["state"]), (two, "running"))
        log = console / f"{record['uuid']}.log"
        await until("boot", lambda: log.exists() and "GUEST-UP" in log.read_text(errors="replace"))
        self.assertEqual(self.outside.listAllDomains(0), [])
        self.assertEqual(list(self.pool.iterdir()), [])
        await self.call("evacuate_compute_node", two)
        self.assertEqual(await self.commit(), [""])
        record = await self.call("get_vm", vm)
        self.assertEqual((record["compute_node"], record["state"]), (one, "running"))
        self.assertTrue(self.outside.lookupByUUIDString(record["uuid"]).isActive())
        self.assertNotIn("GUEST-UP", await self.console(vm), "it has booted anew")
        self.assertEqual(list(pool.iterdir()), [])
        await self.call("stop_vm", vm)
        self.assertEqual(await self.commit(), [""])
        paths = [Path((await self.call("get_disk", id))["path"]) for id in record["disks"]]
        self.assertEqual([path.parent for path in paths], [self.pool, self.pool])
        self.assertEqual(paths[0].read_bytes(), contents[0])
        await self.call("delete_vm", vm)
        self.assertEqual(await self.commit(), [""])
        self.assertEqual(list(self.pool.iterdir()), [])

    async def test_a_guests_life(self) -> None:
        node = await self.add_node()
        disk = await self.call("create_disk", {"name": "data", "size": 8, "compute_node": node, "pool": "contract"})
        spec = {
            "name": "web",
            "memory": 128,
            "max_memory": 192,
            "max_vcpus": 2,
            "compute_node": node,
            "boot": self.kernel(),
            "disks": [{"size": 4, "pool": "contract", "format": "raw"}],
        }
        vm = await self.call("create_vm", spec)
        await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), ["", "", ""])
        await self.boots(vm)
        self.assertEqual((await self.call("get_vm", vm))["state"], "running")
        picture = (await self.call("get_vm_screenshot", vm)).data
        self.assertTrue(picture.startswith(b"\x89PNG"), picture[:8])
        port = port_of(self.server)
        serial = await look(port, (await self.call("get_vm_console", vm))["path"])
        serial.type(b"echo $((6*7))\n")
        await until("answer", lambda: b"42" in serial.seen)
        screen = await look(port, (await self.call("get_vm_console", vm, "vnc"))["path"])
        await until("RFB", lambda: screen.seen == b"RFB 003.008\n")
        serial.transport.loseConnection()

        for method, arguments in (
            ("set_vm_memory", [160]),
            ("set_vm_vcpus", [2]),
            ("attach_disk", [disk]),
            ("pause_vm", []),
            ("resume_vm", []),
            ("detach_disk", [disk]),
        ):
            await self.call(method, vm, *arguments)
        self.assertEqual(await self.commit(), [""] * 6)
        found = await self.call("get_vm", vm)
        self.assertEqual((found["memory"], found["vcpus"], len(found["disks"])), (160, 2, 1))
        await self.call("set_vm_memory", vm, 500)
        self.assertIn("stop", (await self.commit())[0])

        # Behind the server's back: seen by the hypervisor's event (nothing is polled here), and told by ping.
        await self.call("ping")
        self.outside.lookupByUUIDString(found["uuid"]).destroy()
        await until("the screen's end", lambda: screen.lost)
        await until("the end seen", lambda: self.is_in(vm, "stopped"))
        self.assertIn({"type": "vm", "id": vm, "change": "updated"}, await self.call("ping"))

        await self.call("start_vm", vm)
        await self.commit()
        await until("the second boot", lambda: self.booted_twice(vm))
        await self.call("shutdown_vm", vm, 30)
        await self.call("delete_vm", vm)
        await self.call("delete_disk", disk)
        self.assertEqual(await self.commit(), ["", "", ""])
        self.assertEqual(self.outside.listAllDomains(0), [])
        self.assertEqual(list(self.pool.iterdir()), [])

    async def test_a_saved_vm(self) -> None:
        """It has no guest that could be asked, and its faults call it what its owner does."""
        node = await self.add_node()
        vm = await self.call("create_vm", {"name": "web", "memory": 128, "compute_node": node, "boot": self.kernel()})
        for method in ("start_vm", "save_vm", "shutdown_vm", "resume_vm", "stop_vm", "restore_vm"):
            await self.call(method, vm)
        errors = await self.commit()
        saved = "VM web is saved: restore_vm continues it, stop_vm discards the saved state."
        self.assertEqual(errors[:5], ["", "", "", saved, "VM web is saved; it can be resumed only while it is paused."])
        self.assertEqual(errors[5:], ["", "VM web is stopped, and has no saved state."])

    async def is_in(self, vm: int, state: str) -> bool:
        return bool((await self.call("get_vm", vm))["state"] == state)

    async def booted_twice(self, vm: int) -> bool:
        return (await self.console(vm)).count("GUEST-UP") == 2

    async def test_a_guests_interfaces(self) -> None:
        node = await self.add_node()
        self.assertIn("lab", [network["name"] for network in await self.call("list_networks", node)])
        spec = {
            "name": "web",
            "memory": 128,
            "compute_node": node,
            "boot": self.kernel(),
            "interfaces": [{"network": "lab"}],
        }
        vm = await self.call("create_vm", spec)
        await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])
        await self.boots(vm)
        await self.call("attach_interface", vm, {"network": "lab", "mac": "02:00:00:00:00:0A"})
        self.assertEqual(await self.commit(), [""])
        found = await self.call("get_vm", vm)
        macs = [interface["mac"] for interface in found["interfaces"]]
        definition = self.outside.lookupByUUIDString(found["uuid"]).XMLDesc(0)
        for mac in macs:
            self.assertIn(mac, definition)
        await self.call("detach_interface", vm, found["interfaces"][1]["id"])
        await self.call("attach_interface", vm, {"network": "no-such-network"})
        errors = await self.commit()
        self.assertEqual((errors[0], "no-such-network" in errors[1]), ("", True), errors)
        self.assertNotIn(macs[1], self.outside.lookupByUUIDString(found["uuid"]).XMLDesc(0))
        self.assertEqual([one["mac"] for one in (await self.call("get_vm", vm))["interfaces"]], macs[:1])
        await self.call("stop_vm", vm)
        await self.call("delete_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])

    async def test_a_plans_shares(self) -> None:
        """The hypervisor holds each VM to what its owner's resource plan says, from its making on."""
        node = await self.add_node()
        plan = await self.call("create_resource_plan", "small", {"cpu_shares": 512, "disk_iops": 200, "disk_mbps": 20})
        user = await self.call("create_user", "alice", PASSWORD, {"resource_plan": plan})
        spec = {"name": "web1", "owner": user, "memory": 128, "compute_node": node, "boot": self.kernel()}
        vm = await self.call("create_vm", {**spec, "disks": [{"size": 8, "pool": "contract"}]})
        more = {"name": "more", "size": 8, "compute_node": node, "pool": "contract", "owner": user}
        disk = await self.call("create_disk", more)
        await self.call("start_vm", vm)
        await self.call("attach_disk", vm, disk)
        self.assertEqual(await self.commit(), 6 * [""])
        found = await self.call("get_vm", vm)
        domain = self.outside.lookupByUUIDString(found["uuid"])
        for target in ("vda", "vdb"):
            for where in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
                held = domain.blockIoTune(target, where)
                self.assertEqual((held["total_iops_sec"], held["total_bytes_sec"]), (200, 20 * 2**20))
        rates = {"disk_iops": 200, "disk_mbps": 20}
        try:
            weight = domain.schedulerParametersFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)["cpu_shares"]
        except libvirt.libvirtError:  # a host without control groups for CPUs
            self.assertEqual(found["shares"], rates)
        else:
            self.assertEqual((found["shares"], weight), ({"cpu_shares": 512, **rates}, 512))
        await self.call("stop_vm", vm)
        await self.call("delete_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])

    async def test_a_guest_goes_back(self) -> None:
        node = await self.add_node()
        spec = {
            "name": "kept",
            "memory": 128,
            "compute_node": node,
            "boot": self.kernel(),
            "disks": [{"size": 4, "pool": "contract"}],
        }
        vm = await self.call("create_vm", spec)
        await self.call("create_vm_snapshot", vm, "off")
        await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), ["", "", ""])
        await self.boots(vm)
        await self.call("create_vm_snapshot", vm, "on")
        ec = await self.call("commit_tasks")
        await self.call("wait_for_tasks", ec, 25)
        self.assertEqual(await self.call("get_errors", ec), [""])
        (on,) = await self.call("get_results", ec)
        off, running = await self.call("list_vm_snapshots", vm)
        self.assertEqual((off["name"], off["running"], running["id"], running["running"]), ("off", False, on, True))
        await self.call("ping")
        for snapshot, state in ((off["id"], "stopped"), (on, "running")):
            await self.call("revert_vm_snapshot", vm, snapshot)
            self.assertEqual(await self.commit(), [""])
            self.assertEqual((await self.call("get_vm", vm))["state"], state)
        self.assertIn({"type": "vm", "id": vm, "change": "updated"}, await self.call("ping"))
        self.assertEqual((await self.console(vm)).count("GUEST-UP"), 1, "it went on, and didn't boot")

        # Behind the server's back.
        domain = self.outside.lookupByUUIDString((await self.call("get_vm", vm))["uuid"])
        domain.snapshotLookupByName("off").delete()
        await self.call("refresh_compute_node", node)
        await self.call("resize_disk", (await self.call("get_vm", vm))["disks"][0], 8)
        self.assertIn("has snapshots (on)", (await self.commit())[1])
        self.assertEqual((await self.call("get_vm", vm))["snapshots"], 1)
        (disk,) = (await self.call("get_vm", vm))["disks"]
        await self.call("stop_vm", vm)
        await self.call("create_disk_snapshot", disk, "on")
        ec = await self.call("commit_tasks")
        await self.call("wait_for_tasks", ec, 25)
        self.assertEqual(await self.call("get_errors", ec), ["", ""])
        (own,) = await self.call("list_disk_snapshots", disk)
        self.assertEqual((own["name"], own["id"]), ("on", (await self.call("get_results", ec))[1]))
        await self.call("revert_disk_snapshot", disk, own["id"])
        await self.call("delete_vm", vm, {"keep_disks": True})
        await self.call("delete_disk_snapshot", disk, own["id"])
        self.assertEqual(await self.commit(), ["", "", ""])
        (left,) = self.pool.iterdir()
        told = subprocess.run(["qemu-img", "snapshot", "-l", left], capture_output=True, text=True, check=True)
        self.assertEqual(told.stdout, "", "what is kept holds no snapshots")
        self.assertEqual(self.outside.listAllDomains(0), [])

    async def test_a_guest_that_others_made(self) -> None:
        node = await self.add_node()
        pool = self.outside.storagePoolLookupByName("contract")
        pool.createXML("<volume><name>theirs.img</name><capacity unit='MiB'>4</capacity></volume>")
        kernel = self.kernel()
        text = f"""<domain type='qemu'><name>their guest</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
            <os><type machine='pc'>hvm</type><kernel>{kernel["kernel"]}</kernel><initrd>{kernel["initrd"]}</initrd>
            <cmdline>{kernel["cmdline"]}</cmdline></os><features><acpi/></features><cpu mode='host-model'/>
            <devices><disk type='file' device='disk'><source file='{self.pool}/theirs.img'/>
            <target dev='vda' bus='virtio'/></disk><disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>
            <interface type='network'><mac address='52:54:00:0A:0B:0C'/><source network='lab'/><model type='e1000'/>
            </interface>
            <serial type='pty'/><video><model type='vga'/></video></devices></domain>"""
        domain = self.outside.defineXML(text)
        domain.create()
        (foreign,) = await self.call("list_foreign_vms", node)
        vm = await self.call("adopt_vm", node, foreign["uuid"], 1)
        self.assertEqual([line["error"] for line in await self.call("plan_tasks")], [""])
        self.assertEqual(await self.commit(), [""])
        found = await self.call("get_vm", vm)
        (plug,) = found["interfaces"]
        seen = found["name"], found["state"], found["memory"], found["boot"], plug["mac"], plug["model"]
        self.assertEqual(seen, ("their-guest", "running", 128, kernel, "52:54:00:0a:0b:0c", "e1000"))
        disk = await self.call("get_disk", found["disks"][0])
        self.assertEqual((disk["pool"], disk["size"], disk["target"], disk["vm"]), ("contract", 4, "vda", vm))
        self.assertEqual(await self.call("list_foreign_vms", node), [])
        # From here on it is as one of ours.
        await self.call("stop_vm", vm)
        await self.call("set_vm_memory", vm, 160)
        await self.call("set_vm_autostart", vm, True)
        await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), [""] * 4)
        await self.boots(vm)
        self.assertEqual(domain.name(), "their guest")
        self.assertIn("theirs.img", domain.XMLDesc(0))
        await self.call("stop_vm", vm)
        await self.call("delete_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])
        self.assertEqual((self.outside.listAllDomains(0), list(self.pool.iterdir())), ([], []))

    async def test_what_is_done_in_a_guest(self) -> None:
        node = await self.add_node()
        boot = self.kernel("initrd-agent.gz")
        vm = await self.call("create_vm", {"name": "web", "memory": 128, "compute_node": node, "boot": boot})
        await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])
        await self.boots(vm)
        await listening(self.lab, (await self.call("get_vm", vm))["uuid"])
        secret = "qu1nce jelly"
        self.assertIs(await self.call("set_vm_password", vm, "root", secret), True)
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA7cUXVEPbjTQ9a9zHYwBh3VfQ5T4hBZ0b3l3X0m2Fqk alice"
        await self.call("add_vm_ssh_key", vm, key)
        await self.call(
            "run_in_vm", vm, ["sh", "-c", "cat /root/.ssh/*; grep -c 'root:[$]6[$]' /etc/shadow; echo >&2 no; exit 3"]
        )
        await self.call("run_in_vm", vm, ["sleep", "1000"], 1)
        ec = await self.call("commit_tasks")
        while not await self.call("wait_for_tasks", ec, 25):
            pass
        added, _, late = await self.call("get_errors", ec)
        self.assertEqual((added, "within 1 s" in late), ("", True), late)
        told = (await self.call("get_results", ec))[1]
        self.assertEqual((told["code"], told["stdout"], told["stderr"]), (3, f"{key}1\n", "no\n"))
        # A guest without an agent: its own fault, and not the node's.
        await self.call("run_in_vm", vm, ["sh", "-c", "kill -9 $(pidof qemu-ga)"])
        self.assertNotEqual(await self.commit(), [""])
        fault = await self.assertFailure(self.call("set_vm_password", vm, "root", secret), xmlrpc.client.Fault)
        self.assertEqual((fault.faultCode, "guest agent" in fault.faultString), (409, True), fault)
        self.assertEqual((await self.call("get_compute_node", node))["state"], "online")
        kept = b"".join(path.read_bytes() for path in self.state.rglob("*") if path.is_file())
        self.assertIn(b"set_vm_password", kept, "the audit log is among what was read")
        self.assertNotIn(secret.encode(), kept)
        await self.call("stop_vm", vm)
        await self.call("delete_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])

    async def test_disk_boot(self) -> None:
        """A VM without a kernel of its own boots what its disk holds."""
        node = await self.add_node()
        image = self.guest / "disk.img"
        size = -(-image.stat().st_size // 2**20)
        spec = {
            "name": "disk",
            "memory": 160,
            "compute_node": node,
            "boot": {"order": ["disk"]},
            "disks": [{"size": size, "pool": "contract", "format": "raw"}],
        }
        vm = await self.call("create_vm", spec)
        self.assertEqual(await self.commit(), [""])
        (disk,) = (await self.call("get_vm", vm))["disks"]
        path = Path((await self.call("get_disk", disk))["path"])
        path.write_bytes(image.read_bytes())
        await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), [""])
        self.assertIn("from=disk", await self.boots(vm))
        await self.call("stop_vm", vm)
        await self.call("delete_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])

    async def test_what_the_host_refuses(self) -> None:
        node = await self.add_node()
        vm = await self.call("create_vm", {"name": "web", "compute_node": node, "boot": {"kernel": "/no/such/kernel"}})
        await self.call("start_vm", vm)
        errors = await self.commit()
        self.assertTrue(any(errors), errors)
        for error in errors:
            self.assertNotIn("Traceback", error)
        await self.call("create_disk", {"name": "data", "size": 8, "compute_node": node, "pool": "no-such-pool"})
        self.assertIn("no-such-pool", (await self.commit())[0])
        self.assertEqual(await self.call("list_disks"), [])

    async def test_faults_over_a_socket(self) -> None:
        fault = await self.assertFailure(self.call("get_vm", 4711), xmlrpc.client.Fault)
        self.assertEqual((fault.faultCode, fault.faultString), (404, "There is no VM 4711."))
