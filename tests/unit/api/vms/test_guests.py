from __future__ import annotations

import io
from typing import Any

import png

from tests.support import Client, ServerCase
from tests.unit.api.nodes.test_nodes import simulated

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA7cUXVEPbjTQ9a9zHYwBh3VfQ5T4hBZ0b3l3X0m2Fqk alice@example.org"


class GuestTests(ServerCase):
    async def start(self, **node: Any) -> tuple[Client, Client, int]:
        """An administrator, a user, and the user's running VM."""
        self.serving = self.serve()
        admin = await self.serving.login()
        self.node = await admin.node(**node)
        alice = await admin.user("alice")
        vm = await alice.do("create_vm", {"name": "web", "template": "debian-12"})
        await alice.do("start_vm", vm)
        return admin, alice, vm

    async def test_templates(self) -> None:
        admin, alice, vm = await self.start()
        self.assertEqual(await alice.call("list_templates", self.node), ["alpine-3.20", "debian-12"])
        self.assertEqual((await alice.call("get_vm", vm))["template"], "debian-12")
        self.assertNotIn("template", await admin.call("get_vm", await admin.do("create_vm", {"name": "plain"})))
        self.assertEqual((await alice.fail("create_vm", {"name": "odd", "template": "plan9"}))[0], 404)
        self.assertEqual([found["name"] for found in await alice.call("list_vms", {"template": "debian-12"})], ["web"])
        await self.refused(-32602, alice.call("create_vm", {"name": "bad", "template": "../etc"}))
        code, words = await alice.fail("clone_vm", vm, "copy")
        self.assertEqual((code, "can't copy" in words), (409, False) if code == 409 else (501, True))
        await alice.do("stop_vm", vm)
        self.assertEqual((await alice.fail("clone_vm", vm, "copy"))[0], 501)
        self.serving = await self.restart(self.serving)
        admin = await self.serving.login()
        self.assertEqual((await admin.call("get_vm", vm))["template"], "debian-12")

    async def test_commands(self) -> None:
        admin, alice, vm = await self.start()
        await admin.call("run_in_vm", vm, ["echo", "a", "$b"])
        await admin.call("run_in_vm", vm, ["reboot", "--now"], 5)
        ec = await admin.call("commit_tasks")
        await admin.finish(ec)
        told = await admin.call("get_results", ec)
        self.assertEqual(told[0], {"code": 0, "stdout": "a $b\n", "stderr": ""})
        self.assertEqual((told[1]["code"], told[1]["stderr"]), (127, "reboot: not found\n"))
        lines = await admin.call("list_audit", {"method": "run_in_vm"})
        self.assertTrue(any("$b" in line.get("arguments", "") for line in lines), lines)
        await self.refused(403, alice.call("run_in_vm", vm, ["true"]))
        await self.refused(-32602, admin.call("run_in_vm", vm, []))
        await self.refused(-32602, admin.call("run_in_vm", vm, ["true"], 61))
        await admin.do("stop_vm", vm)
        self.assertEqual((await admin.fail("run_in_vm", vm, ["true"]))[0], 409)

    async def test_passwords_and_keys(self) -> None:
        admin, alice, vm = await self.start()
        self.assertIs(await alice.call("set_vm_password", vm, "root", "very secret"), True)
        host = simulated(self.serving, self.node)
        (domain,) = host.domains()
        self.assertEqual(list(host.notes(domain.uuid)["passwords"]), ["root"])
        await self.refused(503, alice.call("set_vm_password", vm, "mallory", "very secret"))
        await self.refused(-32602, alice.call("set_vm_password", vm, "root", "two\nlines"))
        lines = await admin.call("list_audit", {"method": "set_vm_password"})
        self.assertTrue(lines)
        self.assertNotIn("very secret", repr(await admin.call("list_audit", {})))
        bob = await admin.user("bob")
        await self.refused(404, bob.call("set_vm_password", vm, "root", "mine now"))
        auditor = await admin.user("carol", "auditor")
        await self.refused(403, auditor.call("set_vm_password", vm, "root", "mine now"))
        await alice.do("add_vm_ssh_key", vm, KEY)
        self.assertEqual(host.notes(domain.uuid)["keys"], [KEY])
        for key in ("ssh-ed25519", 'command="sh" ' + KEY, KEY + "\nssh-rsa AAAA", "ssh-rsa A$(reboot)"):
            await self.refused(-32602, alice.call("add_vm_ssh_key", vm, key))
        await alice.do("stop_vm", vm)
        await self.refused(409, alice.call("set_vm_password", vm, "root", "very secret"))

    async def test_network(self) -> None:
        admin, alice, vm = await self.start()
        await admin.do("add_vm_address", vm, "192.0.2.7/24")
        await admin.do("add_vm_address", vm, "2001:db8::7")
        await alice.do("set_vm_hostname", vm, "www.example.org")
        await alice.do("set_vm_nameservers", vm, ["192.0.2.53"], ["example.org"])
        told = await alice.call("get_vm_settings", vm)
        expected = {
            "addresses": ["192.0.2.7/24", "2001:db8::7"],
            "hostname": "www.example.org",
            "nameservers": ["192.0.2.53"],
            "search_domains": ["example.org"],
            "swap": 0,
            "disk_space": 2048,
            "inodes": 200000,
            "cpu_limit": 0,
        }
        self.assertEqual(told, expected)
        await admin.do("remove_vm_address", vm, "192.0.2.7")
        self.assertEqual((await alice.call("get_vm_settings", vm))["addresses"], ["2001:db8::7"])
        other = await admin.do("create_vm", {"name": "other"})
        self.assertEqual((await admin.fail("add_vm_address", other, "2001:db8::7/64"))[0], 409)
        await self.refused(403, alice.call("add_vm_address", vm, "192.0.2.8"))
        for method, argument in (
            ("add_vm_address", "192.0.2.300"),
            ("add_vm_address", "192.0.2.1; reboot"),
            ("set_vm_hostname", "a b"),
            ("set_vm_hostname", "-x"),
            ("set_vm_hostname", "a." * 200),
            ("set_vm_nameservers", []),
            ("set_vm_nameservers", ["dns.example.org"]),
        ):
            await self.refused(-32602, admin.call(method, vm, argument))
        bob = await admin.user("bob")
        await self.refused(404, bob.call("get_vm_settings", vm))

    async def test_limits(self) -> None:
        admin, alice, vm = await self.start()
        await admin.do("set_vm_limits", vm, {"swap": 64, "cpu_limit": 150})
        await admin.do("set_vm_limits", vm, {"disk_space": 4096})
        told = await alice.call("get_vm_settings", vm)
        self.assertEqual((told["swap"], told["cpu_limit"], told["disk_space"]), (64, 150, 4096))
        await self.refused(403, alice.call("set_vm_limits", vm, {"disk_space": 10**6}))
        await self.refused(-32602, admin.call("set_vm_limits", vm, {"memory": 1}))

    async def test_planned(self) -> None:
        admin, _, vm = await self.start()
        await admin.call("add_vm_address", vm, "192.0.2.7")
        await admin.call("stop_vm", vm)
        await admin.call("run_in_vm", vm, ["true"])
        self.assertEqual([line["code"] for line in await admin.call("plan_tasks")], [0, 0, 409])
        self.assertNotIn("addresses", await admin.call("get_vm_settings", vm))

    async def test_screenshots(self) -> None:
        admin, alice, vm = await self.start()
        picture = bytes(await alice.call("get_vm_screenshot", vm))
        width, height, rows, _ = png.Reader(io.BytesIO(picture)).asRGB()
        self.assertEqual((width, height, len(list(rows))), (64, 48, 48))
        bob = await admin.user("bob")
        await self.refused(404, bob.call("get_vm_screenshot", vm))
        await alice.do("stop_vm", vm)
        await self.refused(409, alice.call("get_vm_screenshot", vm))
