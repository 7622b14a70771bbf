"""The OpenVZ driver where things go wrong: locks, crashes, copies, guests that don't obey, kernels that aren't OpenVZ's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from fluidvm.driver import (
    AlreadyThere,
    Boot,
    DomainDisk,
    DomainState,
    DriverError,
    NoSuchThing,
    NotReady,
    Unreachable,
    Unsupported,
    WrongState,
)
from fluidvm.drivers.openvz.identity import foreign_uuid
from tests.real.vz_case import VzCase, in_both_dialects
from tests.real.vz_factory import container_spec

RUNNING, STOPPED, PAUSED = DomainState.RUNNING, DomainState.STOPPED, DomainState.PAUSED
OTHER = {4: "101", 7: "11111111-2222-4333-8444-555555555555"}


class OpenVzTests(VzCase):
    """In each dialect."""

    def call(self, *argv: str) -> None:
        """Run a command behind the driver's back."""
        subprocess.run([self.node.bin / argv[0], *argv[1:]], check=True, capture_output=True)

    def hold_lock(self, uuid: str) -> subprocess.Popen[bytes]:
        """Have another process hold a container's lock."""
        holder = subprocess.Popen(["sleep", "600"])
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        (self.node.root / "vz/lock" / f"{self.node.ctid(uuid)}.lck").write_text(f"{holder.pid}\n\n")
        return holder

    def sets(self) -> list[list[str]]:
        return [call for call in self.node.calls() if call[1:2] == ["set"]]

    # others' containers

    async def test_others_containers_are_told(self) -> None:
        ctid = OTHER[self.dialect]
        self.call("vzctl", "create", ctid, "--ostemplate", "busybox-1-x86_64", "--description", 'say "hi" $(there)')
        (info,) = await self.connection.list_domains()
        self.assertEqual((info.uuid, info.name, info.state), (foreign_uuid("node1", ctid), ctid, STOPPED))
        host = await self.connection.host_info()
        self.assertEqual((info.memory, info.vcpus), (256, host.vcpus), "all of the node's CPUs, where none are named")
        await self.connection.start(info.uuid)
        self.assertIs((await self.connection.get_domain(info.uuid)).state, RUNNING)
        self.call("vzctl", "set", ctid, "--ram", "unlimited", "--save")
        self.assertEqual((await self.connection.get_domain(info.uuid)).memory, host.memory)
        self.assertIn('say "hi" $(there)', self.node.conf(ctid), "they are left as they are")

    async def test_a_copied_configuration_is_not_the_domain(self) -> None:
        spec = await self.defined()
        ctid = self.node.ctid(spec.uuid)
        copy = {4: "900", 7: "00000000-0000-4000-8000-000000000001"}[self.dialect]
        self.call("vzctl", "create", copy, "--ostemplate", "busybox-1-x86_64")
        (self.node.conf_dir / f"{copy}.conf").write_text(self.node.conf(ctid).replace('NAME="web1"', 'NAME="copy"'))
        uuids = {domain.name: domain.uuid for domain in await self.connection.list_domains()}
        self.assertEqual(uuids, {"web1": spec.uuid, "copy": foreign_uuid("node1", copy)})
        await self.connection.undefine_domain(spec.uuid)
        self.assertTrue((self.node.conf_dir / f"{copy}.conf").exists())

    async def test_others_descriptions_are_kept(self) -> None:
        ctid = OTHER[self.dialect]
        self.call("vzctl", "create", ctid, "--ostemplate", "busybox-1-x86_64", "--description", "the shop")
        (info,) = await self.connection.list_domains()
        spec = replace(container_spec("shop"), uuid=info.uuid, memory=300, max_memory=300)
        await self.connection.define_domain(spec)
        self.assertIn(':2:300 the shop"', self.node.conf(ctid))
        self.assertEqual((await self.connection.get_domain(info.uuid)).name, "shop")
        self.call("vzctl", "set", ctid, "--description", "$(reboot)", "--save")
        (info,) = await self.connection.list_domains()
        spec = replace(spec, uuid=info.uuid)
        await self.assertFailure(self.connection.define_domain(spec), DriverError)
        self.assertIn("$(reboot)", self.node.conf(ctid))

    async def test_odd_names_stay(self) -> None:
        """vzctl takes more than FluidVM gives, and none: what is taken over is managed under the name that it has."""
        ctid = OTHER[self.dialect]
        for name, called in (("my shop +1", "my shop +1"), ("", ctid), ("v" * 200, "v" * 200)):
            named = ["--name", name] if name else []
            self.call("vzctl", "create", ctid, "--ostemplate", "busybox-1-x86_64", *named)
            (info,) = await self.connection.list_domains()
            spec = await self.connection.get_spec(info.uuid)
            self.assertEqual((info.name, spec.name), (called, called))
            for memory in (300, 200):
                await self.connection.define_domain(replace(spec, memory=memory, max_memory=300))
            await self.connection.start(info.uuid)
            await self.connection.pause(info.uuid)
            await self.connection.stop(info.uuid)
            told = await self.connection.get_domain(info.uuid)
            self.assertEqual((told.name, told.memory, told.max_memory), (called, 200, 300))
            self.assertEqual('NAME="' in self.node.conf(ctid).replace('HOSTNAME="', ""), bool(name))
            await self.connection.undefine_domain(info.uuid)

    async def test_what_cannot_be_marked_is_not_taken_over(self) -> None:
        ctid = OTHER[self.dialect]
        for text in ('say "hi"', "costs 5 $", "`x`", "a\\b"):
            self.call("vzctl", "create", ctid, "--ostemplate", "busybox-1-x86_64", "--description", text)
            (info,) = await self.connection.list_domains()
            error = await self.assertFailure(self.connection.get_spec(info.uuid), Unsupported)
            self.assertIn("description of container", str(error).lower())
            self.assertIn(text, self.node.conf(ctid))
            self.call("vzctl", "destroy", ctid)

    async def test_long_names(self) -> None:
        """The server puts nine characters of its own behind a VM's name, which has 63 at most."""
        spec = await self.started("v" * 63 + "-0123abcd")
        self.assertEqual((await self.connection.get_domain(spec.uuid)).name, spec.name)
        (hostname,) = [line for line in self.conf(spec.uuid).splitlines() if line.startswith("HOSTNAME=")]
        self.assertEqual(hostname, f'HOSTNAME="{"v" * 63}"', "a kernel takes no more")
        await self.assertFailure(self.connection.define_domain(container_spec("v" * 256)), DriverError)

    async def test_what_is_not_known_is_not_told_as_0(self) -> None:
        spec = await self.started()
        self.assertEqual((await self.connection.domain_stats(spec.uuid)).memory, 16)
        ctid = self.node.ctid(spec.uuid)
        path = Path(os.path.realpath(self.node.conf_dir / f"{ctid}.conf"))
        path.write_text(re.sub("DISK.*\n", "", path.read_text()))
        limits = await self.connection.get_limits(spec.uuid)
        self.assertEqual((limits.disk_space, limits.inodes), (None, None))
        # Without beancounters.
        self.node.set(VEINFO=0, NOTICE=1)
        self.assertIsNone((await self.connection.domain_stats(spec.uuid)).memory)

    async def test_how_many_commands_verbs_take(self) -> None:
        """Over SSH each takes its time, and starts a shell on the node."""
        seen: list[str] = []
        real = self.connection._runner.run

        def run(argv: list[str], *args: Any, **options: Any) -> Any:
            seen.append(argv[0])
            return real(argv, *args, **options)

        self.patch(self.connection._runner, "run", run)
        spec = container_spec("web1")
        for most, verb, args in (
            (5, "define_domain", (spec,)),
            (1, "define_domain", (spec,)),
            (1, "list_domains", ()),
            (1, "get_domain", (spec.uuid,)),
            (3, "start", (spec.uuid,)),
            (1, "start", (spec.uuid,)),
            (3, "resize_memory", (spec.uuid, 160)),
            (1, "get_shares", (spec.uuid,)),
            (3, "stop", (spec.uuid,)),
            (2, "undefine_domain", (spec.uuid,)),
        ):
            seen.clear()
            await getattr(self.connection, verb)(*args)
            self.assertLessEqual(len(seen), most, (verb, seen))

    # definitions

    async def test_what_containers_do_not_have_is_refused(self) -> None:
        disk = DomainDisk("/x", "raw", "vda")
        for changes in ({"disks": (disk,)}, {"boot": Boot(kernel="/vmlinuz")}):
            await self.assertFailure(self.connection.define_domain(container_spec("web1", **changes)), Unsupported)
        for name in ("$(reboot)", "a b", 'a"', "-x", "a\n"):
            await self.assertFailure(self.connection.define_domain(container_spec(name)), DriverError)
        self.assertEqual(self.node.leftovers(), [])

    async def test_a_template_that_is_missing(self) -> None:
        connection = await self.connect(template="none-1")
        await self.assertFailure(connection.define_domain(container_spec("web1")), NoSuchThing)
        self.assertEqual(self.node.leftovers(), [])

    async def test_nothing_is_left_of_a_failed_definition(self) -> None:
        self.node.fault("set", rc=139)
        await self.assertFailure(self.connection.define_domain(container_spec("web1")), DriverError)
        self.assertEqual(self.node.leftovers(), [])
        self.assertIn("destroy", [call[1] for call in self.node.calls() if call[0] == "vzctl"])

    async def test_a_name_is_taken_in_between(self) -> None:
        self.node.fault("create", rc={4: 131, 7: 137}[self.dialect])
        await self.assertFailure(self.connection.define_domain(container_spec("web1")), AlreadyThere)

    async def test_an_interrupted_creation_is_repeated(self) -> None:
        spec = container_spec("web1")
        self.node.fault("create-halfway", hang=1)
        first = self.connection.define_domain(spec)
        locks = self.node.root / "vz/lock"
        await self.until(lambda: any(locks.glob("*.lck")) and not (self.node.root / "faults/create-halfway").exists())
        (lock,) = locks.glob("*.lck")
        os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)
        await self.assertFailure(first, DriverError)
        if self.dialect == 7:
            # Its id is the UUID: what was left of it is for an administrator to remove.
            await self.assertFailure(self.connection.define_domain(spec), AlreadyThere)
            return
        await self.connection.define_domain(spec)
        self.assertEqual([domain.uuid for domain in await self.connection.list_domains()], [spec.uuid])

    async def test_a_creation_that_goes_on_unseen_is_waited_for(self) -> None:
        spec = container_spec("web1")
        self.node.fault("create-halfway", delay=1)
        first = self.connection.define_domain(spec)
        await self.until(lambda: any((self.node.root / "vz/lock").glob("*.lck")))
        first.addErrback(lambda failure: None)
        first.cancel()
        another = await self.connect()
        await another.define_domain(spec)
        self.assertEqual([domain.uuid for domain in await another.list_domains()], [spec.uuid])
        self.assertEqual(len(list((self.node.root / "vz/private").iterdir())), 1)

    async def test_what_destroy_leaves_running_is_not_waited_for(self) -> None:
        spec = await self.defined()
        self.node.set(LINGER=1)
        await self.connection.undefine_domain(spec.uuid)
        self.assertEqual(self.node.leftovers(), [])
        left = self.node.root / "lingers"
        await self.until(lambda: left.exists() and left.read_text().strip())
        os.kill(int(left.read_text()), signal.SIGKILL)  # it was there to be waited for

    async def test_a_mounted_container_is_removed(self) -> None:
        spec = await self.defined()
        self.call("vzctl", "mount", self.node.ctid(spec.uuid))
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, STOPPED)
        await self.connection.undefine_domain(spec.uuid)
        self.assertEqual(self.node.leftovers(), [])

    # locks

    async def test_a_foreign_lock_is_waited_for(self) -> None:
        spec = await self.started()
        before = len(self.sets())
        holder = self.hold_lock(spec.uuid)
        resizing = self.connection.resize_memory(spec.uuid, 192)
        await self.until(lambda: len(self.sets()) > before + 1)
        holder.kill()
        holder.wait()
        await resizing
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 192)

    async def test_a_foreign_lock_that_stays(self) -> None:
        spec = await self.started()
        self.hold_lock(spec.uuid)
        clock = Clock()
        connection = await self.connect(clock=clock)
        resizing = connection.resize_memory(spec.uuid, 192)
        while not resizing.called:
            clock.advance(1.0)
            await deferLater(reactor, 0.02, lambda: None)
        self.assertIn("lock", str(await self.assertFailure(resizing, WrongState)))  # type: ignore[arg-type]
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 128)

    async def test_one_change_of_a_container_at_a_time(self) -> None:
        spec = await self.started()
        changes = [self.connection.resize_memory(spec.uuid, amount) for amount in (160, 192, 144)]
        for change in changes:
            await change
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 144)
        self.assertEqual(len([call for call in self.sets() if "--swap" not in call]), 3, "none was tried again")

    # power

    async def test_a_deaf_guest(self) -> None:
        spec = await self.started()
        ctid = self.node.ctid(spec.uuid)
        self.node.deafen(ctid)
        await self.connection.shutdown(spec.uuid)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, RUNNING, "it isn't killed by being asked")
        await self.connection.stop(spec.uuid)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, STOPPED)

    async def test_a_guest_that_dies_fast(self) -> None:
        """It takes C{halt} along, and vzctl tells it as running for a moment longer."""
        spec = await self.started()
        self.node.have(self.node.ctid(spec.uuid), "fast")
        for _ in range(2):
            await self.connection.shutdown(spec.uuid)

        async def down() -> bool:
            return (await self.connection.get_domain(spec.uuid)).state is STOPPED

        while not await down():  # as long as trial's time-out
            await deferLater(reactor, 0.05, lambda: None)

    async def test_a_guest_that_boots(self) -> None:
        spec = await self.started()
        self.node.have(self.node.ctid(spec.uuid), "booting")
        error = await self.assertFailure(self.connection.shutdown(spec.uuid), NotReady)
        self.assertIn("web1", str(error))
        (self.node.root / "run" / self.node.ctid(spec.uuid) / "booting").unlink()
        await self.connection.shutdown(spec.uuid)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, STOPPED)

    async def test_a_guest_that_went_down_by_itself_meanwhile(self) -> None:
        spec = await self.started()
        self.node.have(self.node.ctid(spec.uuid), "booting")
        real = self.connection._runner.run

        async def run(argv: list[str], *args: Any, **options: Any) -> Any:
            outcome = await real(argv, *args, **options)
            if "exec2" in argv:
                self.node.power_off(self.node.ctid(spec.uuid))
            return outcome

        self.patch(self.connection._runner, "run", lambda *args: Deferred.fromCoroutine(run(*args)))
        await self.connection.shutdown(spec.uuid)

    async def test_a_guest_whose_halt_never_ends(self) -> None:
        """It doesn't take its node away."""
        spec = await self.started()
        clock = Clock()
        connection = await self.connect(clock=clock)
        lost: list[str] = []
        connection.on_lost(lost.append)
        self.node.fault("exec2", hang=1)
        halting: Any = connection.shutdown(spec.uuid)
        await self.until(lambda: not (self.node.root / "faults/exec2").exists())
        clock.advance(61.0)
        self.assertNotIsInstance(await self.assertFailure(halting, DriverError), Unreachable)
        self.assertIs((await connection.get_domain(spec.uuid)).state, RUNNING)
        self.assertEqual(lost, [])

    async def test_a_container_that_does_not_die(self) -> None:
        spec = await self.started()
        self.node.set(IMMORTAL=1)
        await self.assertFailure(self.connection.stop(spec.uuid), DriverError)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, RUNNING)

    async def test_a_start_that_fails(self) -> None:
        spec = await self.defined()
        self.call("vzctl", "set", self.node.ctid(spec.uuid), "--disabled", "yes", "--save")
        await self.assertFailure(self.connection.start(spec.uuid), WrongState)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, STOPPED)

    async def test_success_that_is_none(self) -> None:
        """Exit code 0 isn't believed: what came of it is read."""
        spec = await self.defined()
        self.node.fault("start", rc=0)
        await self.assertFailure(self.connection.start(spec.uuid), DriverError)
        await self.connection.start(spec.uuid)
        self.node.fault("set", rc=0)
        await self.assertFailure(self.connection.resize_memory(spec.uuid, 192), DriverError)

    async def test_a_live_change_that_fails(self) -> None:
        spec = await self.started()
        self.node.fault("set-live", rc=1)
        await self.assertFailure(self.connection.resize_memory(spec.uuid, 192), DriverError)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 128)
        self.assertIn('PHYSPAGES="0:32768"', self.conf(spec.uuid), "neither now nor after a start")

    async def test_a_paused_container_that_was_started_anew(self) -> None:
        spec = await self.started()
        await self.connection.pause(spec.uuid)
        ctid = self.node.ctid(spec.uuid)
        self.node.power_off(ctid)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, STOPPED)
        running = self.node.root / "run" / ctid / "running"
        (self.node.root / "run" / ctid / "frozen").unlink()
        running.write_text("1000000000.0")
        self.assertIs(
            (await self.connection.get_domain(spec.uuid)).state, RUNNING, "another start than the one that was frozen"
        )

    async def test_a_paused_container_that_others_resumed(self) -> None:
        spec = await self.started()
        await self.connection.pause(spec.uuid)
        (self.node.root / "run" / self.node.ctid(spec.uuid) / "frozen").unlink()
        await self.connection.resume(spec.uuid)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, RUNNING)

    async def test_a_kernel_that_cannot_freeze(self) -> None:
        spec = await self.started()
        self.node.set(NO_CPT=1)
        self.node.fault("pause", rc=16)
        await self.assertFailure(self.connection.pause(spec.uuid), DriverError)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, RUNNING)

    # kernels that aren't OpenVZ's

    async def test_vzlist_takes_what_runs_for_mounted(self) -> None:
        spec = await self.started()
        self.node.set(VEINFO=0, NOTICE=1)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, RUNNING)
        self.assertEqual([domain.state for domain in await self.connection.list_domains()], [RUNNING])

    async def test_vzlist_sees_nothing(self) -> None:
        spec = await self.started()
        self.node.set(VEINFO=0, PROC=0, NOTICE=1)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, RUNNING)
        self.assertEqual([domain.state for domain in await self.connection.list_domains()], [RUNNING])
        await self.connection.stop(spec.uuid)
        self.assertEqual([domain.state for domain in await self.connection.list_domains()], [STOPPED])

    async def test_an_old_kernel_without_vswap(self) -> None:
        if self.dialect == 7:
            return  # its kernels have it
        self.node.set(VSWAP=0)
        error = await self.assertFailure(self.connection.define_domain(container_spec("web1")), DriverError)
        self.assertIn("vswap", str(error))
        self.assertEqual(self.node.leftovers(), [])

    async def test_a_control_group_freezes(self) -> None:
        if self.dialect == 7:
            self.assertEqual(await self.connection._freezer("1"), "")
            return
        self.node.set(VEINFO=0, FREEZER=1, NO_CPT=1, ZERO_UPTIME=1)
        self.connection = await self.connect(freezer_dir=str(self.node.root / "freezer"))
        spec = await self.started()
        for _ in range(2):
            await self.connection.pause(spec.uuid)
            self.assertIs((await self.connection.get_domain(spec.uuid)).state, PAUSED)
        self.assertEqual([domain.state for domain in await self.connection.list_domains()], [PAUSED])
        await self.connection.resume(spec.uuid)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, RUNNING)
        await self.connection.pause(spec.uuid)
        await self.connection.stop(spec.uuid)
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, STOPPED)

    # the node

    async def test_a_node_without_vzctl(self) -> None:
        for tool in ("vzctl", "vzlist"):
            (self.node.bin / tool).unlink()
        await self.assertFailure(Deferred.fromCoroutine(self.connect()), Unsupported)

    async def test_versions(self) -> None:
        self.node.set(VERSION="3.0.29")
        await self.assertFailure(Deferred.fromCoroutine(self.connect()), Unsupported)

    async def test_a_command_that_hangs_makes_the_node_unreachable(self) -> None:
        clock = Clock()
        connection = await self.connect(clock=clock)
        lost: list[str] = []
        connection.on_lost(lost.append)
        self.node.fault("vzlist", hang=1)
        listing = connection.list_domains()
        await self.until(lambda: not (self.node.root / "faults/vzlist").exists() or listing.called)
        # The node has nothing to list: grep alone wouldn't hang.
        clock.advance(61.0)
        await self.assertFailure(listing, Unreachable)
        self.assertEqual(len(lost), 1)

    async def test_vzlist_says_nonsense(self) -> None:
        await self.defined()
        self.node.fault("vzlist", rc=0, stdout='[ { "ctid": "')
        await self.assertFailure(self.connection.list_domains(), DriverError)

    async def test_a_redefinition_keeps_what_others_wrote(self) -> None:
        spec = await self.defined()
        ctid = self.node.ctid(spec.uuid)
        path = Path(os.path.realpath(self.node.conf_dir / f"{ctid}.conf"))
        path.write_text(path.read_text().replace('192"', '192 for the shop"'))
        await self.connection.define_domain(replace(spec, memory=160, max_vcpus=3))
        self.assertIn(":3:192 for the shop", self.node.conf(ctid))


in_both_dialects(OpenVzTests, globals())
