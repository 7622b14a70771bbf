"""What the contract can't check: that guests notice changes, that they are isolated, and that no process is left."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fluidvm.driver import Boot, DomainDisk, DomainSpec, DomainState, DriverError, NoSuchThing, Unreachable, Unsupported
from fluidvm_driver_namespaces import processes

from .factory import Factory

MIB = 1024 * 1024


class GuestTests(TestCase):
    timeout = 600

    async def setUp(self) -> None:
        self.factory = Factory()
        await self.factory.start()
        self.addCleanup(self.factory.stop)
        self.connection = await self.connect()
        self.addCleanup(self.remove)

    async def connect(self, **options: Any) -> Any:
        given = {**self.factory.options, **options}
        connection = await self.factory.driver.connect(self.factory.address, given, self.factory.host())
        self.addCleanup(connection.close)
        return connection

    async def remove(self) -> None:
        connection = await self.connect()
        for domain in await connection.list_domains():
            await connection.stop(domain.uuid)
            await connection.undefine_domain(domain.uuid)
        self.assertEqual([path.name for path in self.factory.guests.iterdir() if path.name != "directory.lock"], [])

    async def booted(self, **changes: Any) -> tuple[DomainSpec, int]:
        """Start a guest and wait until it has booted. Also returns its first process."""
        spec = self.factory.spec(**{"name": "web", **changes})
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)
        await self.factory.booted(self.connection, spec.uuid)
        # Its init has started its programs.
        while len(self.processes(spec)) < 2:
            await self.factory.pass_time(0.02)
        return spec, self.factory.init(spec.uuid)

    def processes(self, spec: DomainSpec) -> list[int]:
        init = self.factory.init(spec.uuid)
        return [init, *processes.descendants(init)] if init else []

    def limits(self, spec: DomainSpec) -> set[tuple[int, int]]:
        """The memory limit in MiB and the number of CPUs of its processes."""
        return {
            (resource.prlimit(pid, resource.RLIMIT_DATA)[0] // MIB, len(os.sched_getaffinity(pid)))
            for pid in self.processes(spec)
        }

    def supervisor(self, spec: DomainSpec) -> int:
        return processes.holder(self.factory.guests / f"{spec.uuid}.lock")

    async def gone(self, pids: list[int]) -> None:
        while any(processes.state(pid) not in processes.GONE for pid in pids):
            await self.factory.pass_time(0.02)

    async def test_a_guest_is_shut_in(self) -> None:
        _, init = await self.booted()
        for kind in ("user", "mnt", "pid", "uts", "ipc", "net"):
            theirs, ours = (Path(f"/proc/{who}/ns/{kind}").readlink() for who in (init, "self"))
            self.assertNotEqual(theirs, ours, kind)
        seen = {path.name for path in Path(f"/proc/{init}/root").iterdir()}
        self.assertEqual(seen, {"bin", "dev", "etc", "proc", "run", "sbin", "tmp"})
        mounts = Path(f"/proc/{init}/mounts").read_text().splitlines()
        self.assertEqual([line.split()[1] for line in mounts[:3]], ["/", "/proc", "/dev"])
        opened = {str(file.readlink()) for file in Path(f"/proc/{init}/fd").iterdir()}
        self.assertEqual(opened, {"/dev/null"}, "no file of the host's")
        environment = Path(f"/proc/{init}/environ").read_bytes()
        self.assertNotIn(b"HOME=", environment)

    async def test_what_a_guest_writes_is_gone_when_it_stops(self) -> None:
        spec, init = await self.booted()
        Path(f"/proc/{init}/root/etc/written").touch()
        self.assertFalse(Path(self.factory.options["template"], "etc/written").exists())
        await self.connection.stop(spec.uuid)
        await self.connection.start(spec.uuid)
        self.assertFalse(Path(f"/proc/{self.factory.init(spec.uuid)}/root/etc/written").exists())

    async def test_limits_reach_each_process(self) -> None:
        most = os.cpu_count() or 1
        spec, _ = await self.booted()
        self.assertEqual(self.limits(spec), {(32, 1)})
        await self.connection.resize_memory(spec.uuid, 48)
        await self.connection.resize_vcpus(spec.uuid, 2)
        self.assertEqual(self.limits(spec), {(48, min(2, most))})
        await self.connection.resize_vcpus(spec.uuid, 1)
        await self.connection.stop(spec.uuid)
        await self.connection.start(spec.uuid)
        self.assertEqual(self.limits(spec), {(48, 1)})

    async def test_each_process_stands_still(self) -> None:
        spec, init = await self.booted()
        await self.connection.pause(spec.uuid)
        self.assertEqual({processes.state(pid) for pid in self.processes(spec)}, {"T"})
        await self.connection.resume(spec.uuid)
        self.assertEqual({processes.state(pid) for pid in self.processes(spec)} & set(processes.FROZEN), set())
        self.assertEqual(self.factory.init(spec.uuid), init)

    async def test_a_reboot_is_one(self) -> None:
        spec, init = await self.booted()
        supervisor = self.supervisor(spec)
        await self.connection.reboot(spec.uuid)
        while self.factory.init(spec.uuid) in (0, init):
            await self.factory.pass_time(0.02)
            self.assertEqual((await self.connection.get_domain(spec.uuid)).state, DomainState.RUNNING)
        await self.factory.booted(self.connection, spec.uuid)
        self.assertEqual(self.supervisor(spec), supervisor)

    async def test_no_process_is_left(self) -> None:
        for end in ("stop", "supervisor"):
            spec, _ = await self.booted(name=end)
            supervisor = self.supervisor(spec)
            there = [supervisor, *processes.children(supervisor), *self.processes(spec)]
            self.assertGreaterEqual(len(there), 4)
            if end == "stop":
                await self.connection.stop(spec.uuid)
                self.assertEqual([pid for pid in there if processes.state(pid) not in processes.GONE], [])
            else:
                os.kill(supervisor, signal.SIGKILL)
                await self.gone(there)
            self.assertEqual((await self.connection.get_domain(spec.uuid)).state, DomainState.STOPPED)

    async def test_what_is_to_start_with_its_host(self) -> None:
        wanted, other = self.factory.spec("wanted", autostart=True), self.factory.spec("other")
        for spec in (wanted, other):
            await self.connection.define_domain(spec)
        command = [sys.executable, "-m", "fluidvm_driver_namespaces", self.factory.address, self.factory.options["template"]]
        for _ in range(2):
            await deferToThread(subprocess.run, command, check=True)
            states = [(await self.connection.get_domain(spec.uuid)).state for spec in (wanted, other)]
            self.assertEqual(states, [DomainState.RUNNING, DomainState.STOPPED])
        await self.connection.stop(wanted.uuid)
        failed = await deferToThread(subprocess.run, [*command[:-1], "/nowhere"], stderr=subprocess.PIPE)
        self.assertEqual((failed.returncode, failed.stderr), (1, b"There is no template /nowhere.\n"))

    async def test_one_guest_however_often_it_is_started(self) -> None:
        another = await self.connect()
        spec = self.factory.spec("web")
        await self.connection.define_domain(spec)
        await gatherResults([each.start(spec.uuid) for each in (self.connection, another, self.connection)])
        supervisor = self.supervisor(spec)
        self.assertEqual(len(processes.children(supervisor)), 1)

    async def test_what_keeps_a_guest_from_starting_is_told(self) -> None:
        for name, spoil, error, words in (
            ("without", lambda template: (template / "sbin" / "init").unlink(), DriverError, "/sbin/init: No such file"),
            ("gone", shutil.rmtree, NoSuchThing, "There is no template"),
        ):
            template = self.factory.guests.parent / name
            shutil.copytree(self.factory.options["template"], template, symlinks=True)
            connection = await self.connect(template=str(template))
            spec = self.factory.spec(name)
            await connection.define_domain(spec)
            spoil(template)
            said = str(await self.assertFailure(connection.start(spec.uuid), error))
            self.assertIn(words, said)
            self.assertEqual((await connection.get_domain(spec.uuid)).state, DomainState.STOPPED)
            self.assertEqual(self.supervisor(spec), 0)

    async def test_what_it_can_not_do_is_refused(self) -> None:
        for changes in ({"boot": Boot("/boot/vmlinuz")}, {"disks": (DomainDisk("/x", "raw", "vda"),)}):
            await self.assertFailure(self.connection.define_domain(self.factory.spec("web", **changes)), Unsupported)
        self.assertEqual(await self.connection.list_domains(), [])

    async def test_no_path_is_made_of_what_is_no_uuid(self) -> None:
        for bad in ("../template", "", "a" * 36, "{12345678-1234-5678-1234-567812345678}"):
            await self.assertFailure(self.connection.get_domain(bad), NoSuchThing)
            await self.assertFailure(self.connection.define_domain(self.factory.spec("web", uuid=bad)), NoSuchThing)
            await self.connection.undefine_domain(bad)

    async def test_a_directory_that_can_not_be_had(self) -> None:
        address, given = "/proc/none/guests", (self.factory.options, self.factory.host())
        error = await self.assertFailure(self.factory.driver.connect(address, *given), Unreachable)
        self.assertIn(address, str(error))

    async def test_a_callback_that_fails_disturbs_nobody(self) -> None:
        spec = self.factory.spec("web")
        await self.connection.define_domain(spec)
        told: list[Any] = []
        failing = [ZeroDivisionError()]  # once: the end of the guest may also be reported, after this test

        def fail(uuid: str, state: Any) -> None:
            if failing:
                raise failing.pop()

        self.connection.subscribe(fail)
        self.connection.subscribe(lambda uuid, state: told.append(state))
        await self.connection.start(spec.uuid)
        self.assertEqual(told, [DomainState.RUNNING])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
