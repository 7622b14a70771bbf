"""A server with a KVM node and a Xen node, spoken to in XML-RPC over a socket; both hosts and their guests are real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libvirt
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.xmlrpc import Proxy

from fluidvm.drivers.xen.driver import DOM0
from fluidvm.server.options import Options
from fluidvm.server.service import Server
from lab.host import guest
from tests.real.real_host import CMDLINE, shared_host, until
from tests.support import CHEAP, PASSWORD, port_of

from .real_xen import GUEST, UP, Console, kill_daemon, options, shared_machine


class ServerTests(TestCase):
    timeout = 900

    async def setUp(self) -> None:
        self.machine, self.lab, self.guest = shared_machine(), shared_host(), guest()
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "password").write_text(PASSWORD)
        settings = Options()
        settings.parseOptions(
            [
                "--state",
                str(directory),
                "--http",
                "tcp:0:interface=127.0.0.1",
                "--keepalive",
                "any-call",
                "--admin-password-file",
                str(directory / "password"),
                *CHEAP,
            ]
        )
        server = Server(settings.settings, reactor)
        server.privilegedStartService()
        server.startService()
        self.addCleanup(server.stopService)
        self.proxy = Proxy(f"http://127.0.0.1:{port_of(server)}/RPC2".encode())
        self.cookie = await self.proxy.callRemote("authenticate", "admin", PASSWORD)
        self.outside = self.machine.open()
        self.addCleanup(self.clean_up)
        self.kvm = await self.call(
            "add_compute_node",
            "kvm1",
            "kvm",
            self.lab.uri,
            {
                "accelerator": "emulate",
                "pool_path": str(self.lab.directory / "pool"),
                "console_log_dir": str(self.lab.directory / "console"),
            },
        )
        self.xen = await self.call("add_compute_node", "xen1", "xen", self.machine.tcp, options(self.machine))
        self.assertEqual(await self.commit(), ["", ""])

    def clean_up(self) -> None:
        self.outside.close()
        for uri in (self.lab.uri, self.machine.tls):
            host = libvirt.open(uri)
            for domain in host.listAllDomains(0):
                if domain.UUIDString() != DOM0:
                    if domain.isActive():
                        domain.destroy()
                    domain.undefine()
            host.close()

    def call(self, method: str, *arguments: Any) -> Deferred[Any]:
        return self.proxy.callRemote(method, self.cookie, *arguments)

    async def commit(self) -> list[str]:
        """Commit, wait, and give the errors."""
        ec = await self.call("commit_tasks")
        while not await self.call("wait_for_tasks", ec, 20):
            pass
        errors: list[str] = await self.call("get_errors", ec)
        return errors

    def vm(self, name: str, node: int, directory: str, cmdline: str) -> Deferred[int]:
        boot = {"kernel": f"{directory}/vmlinux", "initrd": f"{directory}/initrd.gz", "cmdline": cmdline}
        return self.call(
            "create_vm",
            {"name": name, "memory": 128, "max_memory": 192, "compute_node": node, "boot": boot, "disks": [{"size": 8}]},
        )

    async def xen_boots(self, uuid: str) -> None:
        console = Console(self.outside, uuid)
        await console.says("GUEST-UP")
        console.close()
        self.assertIn("disks=1", console.text)

    async def test_one_context_makes_vms_on_both(self) -> None:
        nodes = {node["driver"]: node for node in await self.call("list_compute_nodes")}
        self.assertEqual({name: node["state"] for name, node in nodes.items()}, {"kvm": "online", "xen": "online"})
        self.assertIn("Xen", nodes["xen"]["hypervisor_version"])
        on_kvm = await self.vm("one", self.kvm, str(self.guest), CMDLINE)
        on_xen = await self.vm("two", self.xen, GUEST, "console=hvc0 quiet")
        for vm in (on_kvm, on_xen):
            await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), [""] * 4)
        found = {vm: await self.call("get_vm", vm) for vm in (on_kvm, on_xen)}
        self.assertEqual([vm["state"] for vm in found.values()], ["running"] * 2)
        log = self.lab.directory / "console" / f"{found[on_kvm]['uuid']}.log"
        await until("KVM's guest", lambda: "GUEST-UP" in log.read_text(errors="replace"), UP)
        await self.xen_boots(found[on_xen]["uuid"])
        for vm in (on_kvm, on_xen):
            await self.call("set_vm_memory", vm, 192)
            await self.call("shutdown_vm", vm, 60)
            await self.call("delete_vm", vm)
        self.assertEqual(await self.commit(), [""] * 6)
        self.assertEqual([domain.UUIDString() for domain in self.outside.listAllDomains(0)], [DOM0])

    async def test_a_killed_daemon_is_found_again(self) -> None:
        """dom0's libvirtd dies while a guest runs: the node goes offline, comes back, and the VM was never stopped."""
        vm = await self.vm("two", self.xen, GUEST, "console=hvc0 quiet")
        await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])
        uuid = (await self.call("get_vm", vm))["uuid"]
        await self.xen_boots(uuid)
        number = self.outside.lookupByUUIDString(uuid).ID()
        await self.call("ping")

        await deferToThread(kill_daemon, self.machine)

        async def node_is(state: str) -> bool:
            return bool((await self.call("get_compute_node", self.xen))["state"] == state)

        await until("the node offline", lambda: node_is("offline"), 30)
        self.assertEqual((await self.call("get_vm", vm))["state"], "unknown")
        await until("the node online", lambda: node_is("online"), UP)
        self.assertEqual((await self.call("get_vm", vm))["state"], "running")
        self.assertIn({"type": "compute_node", "id": self.xen, "change": "updated"}, await self.call("ping"))
        self.outside.close()
        self.outside = self.machine.open()
        self.assertEqual(self.outside.lookupByUUIDString(uuid).ID(), number)
        # And events come again.
        self.outside.lookupByUUIDString(uuid).destroy()

        async def stopped() -> bool:
            return bool((await self.call("get_vm", vm))["state"] == "stopped")

        await until("the stop seen", stopped, 5)
        await self.call("start_vm", vm)
        await self.call("stop_vm", vm)
        await self.call("delete_vm", vm)
        self.assertEqual(await self.commit(), [""] * 3)
