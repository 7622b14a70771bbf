"""What the OpenVZ driver can do beyond the core, on the stand-ins for its tools."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

from twisted.internet.defer import CancelledError

from fluidvm.driver import (
    AlreadyThere,
    DomainSpec,
    DomainState,
    DriverError,
    Limits,
    NoSuchThing,
    Snapshot,
    Unreachable,
    Unsupported,
    WrongState,
)
from fluidvm.drivers.openvz.driver import OpenVzDriver
from fluidvm.drivers.openvz.guest import KEY_SCRIPT
from tests import TIMEOUT
from tests.real.vz_case import VzCase, in_both_dialects
from tests.real.vz_factory import VzThreadHost, container_spec, node_options

RUNNING, STOPPED, PAUSED, SAVED = DomainState.RUNNING, DomainState.STOPPED, DomainState.PAUSED, DomainState.SAVED
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ it's mine"


class OpenVzAbilitiesTests(VzCase):
    """In each dialect."""

    async def state(self, spec: DomainSpec) -> DomainState:
        return (await self.connection.get_domain(spec.uuid)).state

    def guest_file(self, spec: DomainSpec, path: str) -> Path:
        return self.node.root / "vz/private" / self.node.ctid(spec.uuid) / "fs" / path

    # saving

    async def test_save_and_restore(self) -> None:
        spec = await self.started()
        told: list[int] = []
        for _ in range(2):
            await self.connection.save(spec.uuid, told.append)
            self.assertIs(await self.state(spec), SAVED)
        self.assertEqual((await self.connection.list_domains())[0].state, SAVED)
        await self.assertFailure(self.connection.set_memory(spec.uuid, 256), WrongState)
        await self.assertFailure(self.connection.define_domain(spec), WrongState)
        for _ in range(2):
            await self.connection.restore(spec.uuid, told.append)
            self.assertIs(await self.state(spec), RUNNING)
        self.assertEqual(set(told), {100})
        await self.connection.pause(spec.uuid)
        await self.connection.save(spec.uuid, told.append)
        self.assertIs(await self.state(spec), SAVED)
        await self.connection.undefine_domain(spec.uuid)
        self.assertEqual(self.node.leftovers(), [])

    async def test_a_cancelled_save(self) -> None:
        spec = await self.started()
        saving = self.connection.save(spec.uuid, lambda part: None)
        await self.until(lambda: any("suspend" in call for call in self.node.calls()))
        saving.cancel()
        await self.assertFailure(saving, CancelledError)
        self.assertIs(await self.state(spec), RUNNING)

    async def test_saving_that_fails(self) -> None:
        spec = await self.started()
        self.node.fault("suspend", rc=16)
        await self.assertFailure(self.connection.save(spec.uuid, lambda part: None), DriverError)
        self.assertIs(await self.state(spec), RUNNING)
        await self.connection.pause(spec.uuid)
        self.node.fault("suspend-to-disk", rc=16)
        await self.assertFailure(self.connection.save(spec.uuid, lambda part: None), DriverError)
        self.assertIs(await self.state(spec), PAUSED)

    async def test_what_saving_needs(self) -> None:
        spec = await self.defined()
        for verb in (self.connection.save, self.connection.restore):
            await self.assertFailure(verb(spec.uuid, lambda part: None), WrongState)
            await self.assertFailure(verb(container_spec("x").uuid, lambda part: None), NoSuchThing)

    async def test_reset(self) -> None:
        spec = await self.defined()
        await self.assertFailure(self.connection.reset(spec.uuid), WrongState)
        await self.connection.start(spec.uuid)
        self.node.deafen(self.node.ctid(spec.uuid))
        await self.connection.reset(spec.uuid)
        self.assertIs(await self.state(spec), RUNNING)

    # snapshots

    async def test_snapshots(self) -> None:
        self.node.set(LAYOUT="ploop")
        spec = await self.defined()
        self.assertEqual(await self.connection.list_snapshots(spec.uuid), [])
        note = self.guest_file(spec, "root/note")
        note.write_text("one")
        for _ in range(2):
            await self.connection.create_snapshot(spec.uuid, "before it")
        await self.connection.start(spec.uuid)
        note.write_text("two")
        await self.connection.create_snapshot(spec.uuid, "running")
        self.assertIs(await self.state(spec), RUNNING)
        first, second = await self.connection.list_snapshots(spec.uuid)
        self.assertEqual({one.name: one.running for one in (first, second)}, {"before it": False, "running": True})
        self.assertLessEqual(first.created, second.created)
        self.assertIsInstance(first, Snapshot)

        note.write_text("three")
        await self.connection.resize_memory(spec.uuid, 192)
        for name, words, state in (("before it", "one", STOPPED), ("running", "two", RUNNING)):
            await self.connection.revert_snapshot(spec.uuid, name)
            self.assertEqual((note.read_text(), await self.state(spec)), (words, state))
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 192, "the definition stays")
        await self.assertFailure(self.connection.revert_snapshot(spec.uuid, "none"), NoSuchThing)
        for _ in range(2):
            await self.connection.delete_snapshot(spec.uuid, "before it")
        self.assertEqual([one.name for one in await self.connection.list_snapshots(spec.uuid)], ["running"])
        await self.connection.pause(spec.uuid)
        await self.assertFailure(self.connection.create_snapshot(spec.uuid, "frozen"), WrongState)
        await self.assertFailure(self.connection.create_snapshot(spec.uuid, "$(x)"), DriverError)

    async def test_no_snapshots_of_a_directory(self) -> None:
        if self.dialect == 7:
            self.connection = await self.connect(layout="simfs")
            await self.assertFailure(self.connection.define_domain(container_spec("web1")), DriverError)
            return  # there are none such
        spec = await self.defined()
        await self.assertFailure(self.connection.create_snapshot(spec.uuid, "one"), Unsupported)
        self.assertEqual(await self.connection.list_snapshots(spec.uuid), [])
        await self.connection.delete_snapshot(spec.uuid, "one")
        await self.assertFailure(self.connection.revert_snapshot(spec.uuid, "one"), NoSuchThing)

    # the guest

    async def test_commands_in_the_guest(self) -> None:
        spec = await self.defined()
        run = self.connection.run_in_guest
        await self.assertFailure(run(spec.uuid, ["true"], b"", 10.0), WrongState)
        await self.connection.start(spec.uuid)
        outcome = await run(spec.uuid, ["sh", "-c", "cat; echo err >&2; exit 31"], b"in", 10.0)
        self.assertEqual((outcome.code, outcome.stdout, outcome.stderr), (31, "in", "err\n"))
        error = await self.assertFailure(run(spec.uuid, ["sleep", "9"], b"", 0.3), DriverError)
        self.assertNotIsInstance(error, Unreachable)  # a guest that takes its time doesn't take its node away
        self.assertEqual((await run(spec.uuid, ["true"], b"", 10.0)).code, 0)
        words = ["a  b", "$HOME", "*", "", "'", '"', "ü"]
        outcome = await run(spec.uuid, ["sh", "-c", 'for word; do echo "<$word>"; done', "sh", *words], b"", 10.0)
        self.assertEqual(outcome.stdout.splitlines(), [f"<{word}>" for word in words])

    async def test_vzctls_own_lines_are_not_a_commands(self) -> None:
        self.node.set(NOTICE=1)
        spec = await self.started()
        outcome = await self.connection.run_in_guest(spec.uuid, ["sh", "-c", "echo out; echo err >&2; exit 7"], b"", 10.0)
        self.assertEqual((outcome.code, outcome.stdout, outcome.stderr), (7, "out\n", "err\n"))

    async def test_passwords(self) -> None:
        spec = await self.started()
        secret = "it's $HOME `secret` \\n"
        await self.connection.set_password(spec.uuid, "root", secret)
        self.assertEqual(self.guest_file(spec, "etc/passwords").read_text(), f"root:{secret}\n")
        self.assertFalse([call for call in self.node.calls() if "secret" in repr(call)], "no command line holds it")
        for user, password in (("a:b", "x"), ("root", "two\nlines"), ("root", "")):
            await self.assertFailure(self.connection.set_password(spec.uuid, user, password), DriverError)

    async def test_a_guest_without_chpasswd(self) -> None:
        self.connection = await self.connect(template="busybox-1-x86_64")
        spec = await self.started()
        error = await self.assertFailure(self.connection.set_password(spec.uuid, "root", "hidden"), DriverError)
        self.assertNotIn("hidden", str(error))

    async def test_keys(self) -> None:
        spec = await self.started()
        for _ in range(2):
            await self.connection.add_ssh_key(spec.uuid, KEY)
        self.assertEqual(self.guest_file(spec, "root/.ssh/authorized_keys").read_text(), f"{KEY}\n")
        await self.assertFailure(self.connection.add_ssh_key(spec.uuid, "two\nlines"), DriverError)

    async def test_keys_lie_in_roots_home(self) -> None:
        """Not in C{HOME}, which vzctl sets to C{/}."""
        spec = await self.started()
        users = self.guest_file(spec, "etc/passwd")
        users.write_text("daemon:*:1:1::/:\nroot:x:0:0::/var/super user:/bin/sh")
        await self.connection.add_ssh_key(spec.uuid, KEY)
        keys = self.guest_file(spec, "var/super user/.ssh/authorized_keys")
        self.assertEqual(keys.read_text(), f"{KEY}\n")
        self.assertEqual((keys.stat().st_mode & 0o777, keys.parent.stat().st_mode & 0o777), (0o600, 0o700))
        users.write_text("daemon:*:1:1::/:\n")
        error = await self.assertFailure(self.connection.add_ssh_key(spec.uuid, "ssh-ed25519 AAAA"), DriverError)
        self.assertIn("SSH key", str(error))
        self.assertFalse(self.guest_file(spec, ".ssh").exists())

    async def test_a_key_after_an_unfinished_line(self) -> None:
        home = Path(self.mktemp()).absolute()
        (home / ".ssh").mkdir(parents=True)
        keys = home / ".ssh/authorized_keys"
        keys.write_text("ssh-ed25519 AAAAold you")
        users = Path(self.mktemp()).absolute()
        users.write_text(f"root:x:0:0:root:{home}:/bin/sh\n")
        script = KEY_SCRIPT.format(key=shlex.quote("ssh-ed25519 AAAAnew me")).replace("/etc/passwd", str(users)).encode()
        for _ in range(2):
            subprocess.run(["sh"], input=script, env={"HOME": "/", "PATH": "/usr/bin:/bin"}, timeout=TIMEOUT, check=True)
            self.assertEqual(keys.read_text().splitlines(), ["ssh-ed25519 AAAAold you", "ssh-ed25519 AAAAnew me"])

    # settings

    async def test_limits_outlive_another_definition(self) -> None:
        spec = await self.defined()
        await self.connection.set_limits(spec.uuid, Limits(swap=64, cpu_limit=50))
        await self.connection.define_domain(replace(spec, autostart=not spec.autostart))
        told = await self.connection.get_limits(spec.uuid)
        self.assertEqual((told.swap, told.cpu_limit), (64, 50))

    async def test_addresses(self) -> None:
        for running in (False, True):
            spec = await (self.started if running else self.defined)(f"web{running}")
            for ip in ("192.0.2.5/24", "2001:db8::5", "192.0.2.5/24"):
                await self.connection.add_address(spec.uuid, ip)
            self.assertEqual((await self.connection.guest_network(spec.uuid)).addresses, ("192.0.2.5/24", "2001:db8::5"))
            for _ in range(2):
                await self.connection.remove_address(spec.uuid, "192.0.2.5/24")
            self.assertEqual((await self.connection.guest_network(spec.uuid)).addresses, ("2001:db8::5",))
            await self.assertFailure(self.connection.add_address(spec.uuid, "192.0.2.300"), DriverError)
        self.node.set(IP_IN_USE="192.0.2.9")
        await self.assertFailure(self.connection.add_address(spec.uuid, "192.0.2.9"), AlreadyThere)

    async def test_names(self) -> None:
        spec = await self.defined()
        await self.connection.set_hostname(spec.uuid, "www.example.org")
        await self.connection.set_nameservers(spec.uuid, ["192.0.2.53", "2001:db8::53"], ["example.org"])
        conf = self.conf(spec.uuid)
        for line in ('HOSTNAME="www.example.org"', 'NAMESERVER="192.0.2.53 2001:db8::53"', 'SEARCHDOMAIN="example.org"'):
            self.assertIn(line, conf)
        for name in ("bad host!", "$(reboot)", "-x", "a..b", ""):
            await self.assertFailure(self.connection.set_hostname(spec.uuid, name), DriverError)

    async def test_amounts(self) -> None:
        spec = await self.started()
        await self.connection.set_limits(spec.uuid, Limits(64, 4096, 300000, 150))
        await self.connection.set_limits(spec.uuid, Limits(swap=32))
        listed = (await self.connection._container(spec.uuid)).listed
        self.assertEqual((listed.swap, listed.disk, listed.inodes), (32, 4096, 300000))
        self.assertEqual((await self.connection.get_limits(spec.uuid)).cpu_limit, 150)
        await self.assertFailure(self.connection.set_limits(container_spec("x").uuid, Limits(swap=64)), NoSuchThing)
        known = {path.stem for path in self.node.conf_dir.glob("*.conf")}
        self.assertEqual(known, {"0", self.node.ctid(spec.uuid)}, "vzctl set made no configuration for a stranger")

    async def test_templates_and_disk_size(self) -> None:
        self.assertEqual(await self.connection.list_templates(), ["busybox-1-x86_64", "debian-12-x86_64"])
        spec = await self.defined("other", template="busybox-1-x86_64")
        self.assertIn("busybox-1-x86_64", self.conf(spec.uuid))
        nowhere = container_spec("nowhere", template="plan9")
        error = await self.assertFailure(self.connection.define_domain(nowhere), NoSuchThing)
        self.assertIn("plan9", str(error))
        self.connection = await self.connect(disk_size=3072, swap=128)
        spec = await self.defined()
        listed = (await self.connection._container(spec.uuid)).listed
        self.assertEqual((listed.disk, listed.swap), (3072, 128))

    # migration

    async def test_migration(self) -> None:
        other = self.new_node("other")
        there = await self.connect(other, peer_name="other.example")
        (self.node.root / "nodes").write_text(f"other.example={other.root}\n")
        told: list[int] = []
        for live, running in ((False, False), (False, True), (True, True)):
            spec = await (self.started if running else self.defined)(f"web-{live}-{running}")
            for _ in range(2):
                await self.connection.migrate(spec, there, live, False, told.append)
            info = await there.get_domain(spec.uuid)
            self.assertEqual((info.state, info.name, info.memory), (RUNNING if running else STOPPED, spec.name, 128))
            await self.assertFailure(self.connection.get_domain(spec.uuid), NoSuchThing)
        self.assertEqual(self.node.leftovers(), [])
        self.assertEqual(told[-1], 100)

    async def test_a_container_of_others_is_moved(self) -> None:
        """Its UUID is made of its id and its node's name, and stays what it is on a node of another name."""
        id = {4: "900", 7: "00000000-0000-4000-8000-000000000001"}[self.dialect]
        subprocess.run(
            [self.node.bin / "vzctl", "create", id, "--ostemplate", "busybox-1-x86_64"],
            timeout=TIMEOUT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (info,) = await self.connection.list_domains()
        other = self.new_node("other")
        host = VzThreadHost(Path(self.mktemp()))
        host.node = "node2"
        self.addCleanup(host.stop)
        there = await OpenVzDriver().connect("", node_options(other) | {"peer_name": "other.example"}, host)
        self.addCleanup(there.close)
        (self.node.root / "nodes").write_text(f"other.example={other.root}\n")
        await self.connection.migrate(await self.connection.get_spec(info.uuid), there, False, False, lambda part: None)
        self.assertEqual([domain.uuid for domain in await there.list_domains()], [info.uuid])

    async def test_migration_that_fails(self) -> None:
        other = self.new_node("other")
        there = await self.connect(other, peer_name="other.example")
        nameless = await self.connect(other)
        spec = await self.started()
        codes = {
            4: ((9, AlreadyThere), (2, WrongState), (18, Unsupported), (6, DriverError)),
            7: ((9, AlreadyThere), (45, AlreadyThere), (57, Unsupported), (6, DriverError)),
        }[self.dialect]
        for code, error in codes:
            self.node.fault("vzmigrate", rc=code)
            await self.assertFailure(self.connection.migrate(spec, there, True, False, lambda part: None), error)
        await self.assertFailure(self.connection.migrate(spec, there, True, False, lambda part: None), DriverError)
        await self.assertFailure(self.connection.migrate(spec, nameless, True, False, lambda part: None), Unsupported)
        await there.define_domain(container_spec("web1"))
        await self.assertFailure(self.connection.migrate(spec, there, True, False, lambda part: None), AlreadyThere)
        self.assertIs(await self.state(spec), RUNNING)
        await self.assertFailure(
            self.connection.migrate(container_spec("x"), there, True, False, lambda part: None), NoSuchThing
        )


in_both_dialects(OpenVzAbilitiesTests, globals())
