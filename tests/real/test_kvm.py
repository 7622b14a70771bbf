"""The kvm driver on a real libvirtd, with guests that really boot."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import libvirt
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from fluidvm.driver import (
    AlreadyThere,
    Boot,
    DomainDisk,
    DomainSpec,
    DomainState,
    DriverError,
    IConnection,
    IDisks,
    IDriver,
    IEvents,
    ILiveResize,
    NoSuchThing,
    Unreachable,
    Unsupported,
    WrongState,
)
from fluidvm.drivers.kvm import KvmConnection, KvmDriver
from fluidvm.drivers.libvirt import disks as libvirt_disks
from fluidvm.drivers.libvirt import resize as libvirt_resize
from fluidvm.model.faults import InvalidParams
from tests.real.real_host import CMDLINE, HostCase, ThreadHost, until

RUNNING, PAUSED, STOPPED = DomainState.RUNNING, DomainState.PAUSED, DomainState.STOPPED
NOBODY = "00000000-0000-4000-8000-000000000000"


class DriverTests(SynchronousTestCase):
    def test_it_provides_what_it_says(self) -> None:
        verifyObject(IDriver, KvmDriver())
        for ability in (IConnection, ILiveResize, IDisks, IEvents):
            verifyClass(ability, KvmConnection)

    def test_addresses(self) -> None:
        for address in (
            "",
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///system?socket=/run/a",
            "qemu+ssh://root@h/system",
            "qemu+tls://[::1]:16514/system?pkipath=/a",
            "qemu+tcp://10.0.0.1/system",
        ):
            KvmDriver().check_address(address)
        for address in (
            "host",
            "xen:///system",
            "qemu:///",
            "qemu+tcp:///system",
            "qemu+ssh://-oProxyCommand=x/system",
            "qemu+ext://h/system",
            "qemu+tcp://h:99999/system",
            "qemu+tcp://h/system ; rm",
        ):
            with self.assertRaises(ValueError, msg=address):
                KvmDriver().check_address(address)

    def test_options(self) -> None:
        options = KvmDriver().options
        options.check({"accelerator": "auto", "machine": "pc-q35-7.2", "pool_path": "/a b", "pool": "p"}, "options", [])
        for wrong in (
            {"accelerator": "fast"},
            {"machine": "pc,accel=x"},
            {"machine": "'/>"},
            {"pool_path": "a"},
            {"console_log_dir": "/a\nb"},
            {"pool": "../a"},
        ):
            with self.assertRaises(InvalidParams, msg=str(wrong)):
                options.check(wrong, "options", [])


class PowerTests(HostCase):
    async def state(self, uuid: str) -> DomainState:
        return (await self.connection.get_domain(uuid)).state

    async def test_a_guest_boots_obeys_and_is_forgotten(self) -> None:
        spec = self.spec(autostart=True)
        await self.connection.define_domain(spec)
        await self.connection.define_domain(spec)
        info = await self.connection.get_domain(spec.uuid)
        self.assertEqual(
            (info.name, info.state, info.vcpus, info.max_vcpus, info.memory, info.max_memory, info.disks, info.autostart),
            (spec.name, STOPPED, 1, 2, 128, 192, (), True),
        )
        await self.connection.start(spec.uuid)
        await self.connection.start(spec.uuid)
        self.assertEqual(await self.state(spec.uuid), RUNNING)
        await self.up(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 128)
        for again in range(2):
            await self.connection.pause(spec.uuid)
            self.assertEqual(await self.state(spec.uuid), PAUSED, again)
        for refused in (self.connection.start, self.connection.shutdown, self.connection.reboot):
            with self.assertRaises(WrongState):
                await refused(spec.uuid)
        for again in range(2):
            await self.connection.resume(spec.uuid)
            self.assertEqual(await self.state(spec.uuid), RUNNING, again)
        for refused in (self.connection.undefine_domain, lambda _uuid: self.connection.define_domain(spec)):
            with self.assertRaises(WrongState):
                await refused(spec.uuid)
        await self.connection.shutdown(spec.uuid)
        await until("end of the guest", lambda: not self.outside.lookupByUUIDString(spec.uuid).isActive())
        self.assertIn("GUEST-POWEROFF", self.console(spec.uuid))
        for repeated in (self.connection.shutdown, self.connection.stop, self.connection.stop):
            await repeated(spec.uuid)
        for refused in (self.connection.pause, self.connection.resume, self.connection.reboot):
            with self.assertRaises(WrongState):
                await refused(spec.uuid)
        await self.connection.undefine_domain(spec.uuid)
        await self.connection.undefine_domain(spec.uuid)
        self.assertEqual(list(await self.connection.list_domains()), [])

    async def test_reboot(self) -> None:
        spec = await self.booted()
        await self.connection.reboot(spec.uuid)
        await self.up(spec.uuid, 2)
        self.assertEqual(await self.state(spec.uuid), RUNNING)
        await self.connection.stop(spec.uuid)
        self.assertEqual(await self.state(spec.uuid), STOPPED)

    async def test_a_disk_boots_by_its_own_loader(self) -> None:
        disk = await self.volume("boot", (self.guest / "disk.img").stat().st_size // 2**20)
        shutil.copyfile(self.guest / "disk.img", disk.path)
        spec = self.spec(disks=(disk,), boot=Boot())
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)
        await self.up(spec.uuid)
        self.assertIn("DISK-BOOT", self.console(spec.uuid))
        self.assertIn("from=disk", self.console(spec.uuid))
        self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, (disk,))

    async def test_nobody(self) -> None:
        for uuid in (NOBODY, "nonsense"):
            for verb in ("get_domain", "start", "shutdown", "stop", "reboot", "pause", "resume"):
                with self.assertRaises(NoSuchThing):
                    await getattr(self.connection, verb)(uuid)
            for verb in ("set_memory", "set_vcpus", "resize_memory", "resize_vcpus"):
                with self.assertRaises(NoSuchThing):
                    await getattr(self.connection, verb)(uuid, 1)

    async def test_a_missing_kernel_is_named(self) -> None:
        spec = self.spec(boot=Boot("/nowhere/vmlinuz"))
        await self.connection.define_domain(spec)
        with self.assertRaisesRegex(NoSuchThing, "/nowhere/vmlinuz"):
            await self.connection.start(spec.uuid)
        self.assertEqual(await self.state(spec.uuid), STOPPED)

    async def test_a_missing_disk_is_named(self) -> None:
        spec = self.spec(disks=(DomainDisk("/nowhere/disk", "raw", "vda"),))
        await self.connection.define_domain(spec)
        with self.assertRaisesRegex(NoSuchThing, "/nowhere/disk"):
            await self.connection.start(spec.uuid)

    async def test_names(self) -> None:
        odd = self.spec("""a'b"c&<d>""")
        await self.connection.define_domain(odd)
        self.assertEqual((await self.connection.get_domain(odd.uuid)).name, odd.name)
        with self.assertRaises(AlreadyThere):
            await self.connection.define_domain(self.spec(odd.name))
        await self.connection.define_domain(DomainSpec(**{**odd.__dict__, "name": "other", "memory": 160}))
        info = await self.connection.get_domain(odd.uuid)
        self.assertEqual((info.name, info.memory), ("other", 160))
        self.assertEqual(len(await self.connection.list_domains()), 1)

    async def test_a_refused_definition_changes_nothing(self) -> None:
        spec = self.spec()
        await self.connection.define_domain(spec)
        disks = (DomainDisk("/a", "raw", "vda"), DomainDisk("/b", "raw", "vda"))
        with self.assertRaises(DriverError):
            await self.connection.define_domain(DomainSpec(**{**spec.__dict__, "name": "other", "disks": disks}))
        info = await self.connection.get_domain(spec.uuid)
        self.assertEqual((info.name, info.disks), (spec.name, ()))


class ResizeTests(HostCase):
    async def test_stopped(self) -> None:
        spec = self.spec()
        await self.connection.define_domain(spec)
        for memory, most in ((160, 192), (160, 192), (256, 256), (64, 256)):
            await self.connection.set_memory(spec.uuid, memory)
            info = await self.connection.get_domain(spec.uuid)
            self.assertEqual((info.memory, info.max_memory), (memory, most))
        for vcpus, most in ((2, 2), (4, 4), (1, 4)):
            await self.connection.set_vcpus(spec.uuid, vcpus)
            info = await self.connection.get_domain(spec.uuid)
            self.assertEqual((info.vcpus, info.max_vcpus), (vcpus, most))
        for refused in (self.connection.resize_memory, self.connection.resize_vcpus):
            with self.assertRaises(WrongState):
                await refused(spec.uuid, 1)

    async def test_memory_while_it_runs(self) -> None:
        spec = await self.booted()
        for memory in (160, 160, 192, 128):
            await self.connection.resize_memory(spec.uuid, memory)
            self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, memory)
            self.assertEqual(self.outside.lookupByUUIDString(spec.uuid).memoryStats()["actual"], memory * 1024)
        small = int((await self.tell(spec.uuid, "grep MemTotal /proc/meminfo")).split("MemTotal:")[1].split()[0])
        await self.connection.resize_memory(spec.uuid, 192)
        large = int((await self.tell(spec.uuid, "grep MemTotal /proc/meminfo")).split("MemTotal:")[1].split()[0])
        self.assertEqual(large - small, 64 * 1024)
        with self.assertRaisesRegex(WrongState, "stop it to give it"):
            await self.connection.resize_memory(spec.uuid, 193)
        with self.assertRaises(WrongState):
            await self.connection.set_memory(spec.uuid, 128)
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 192)

    async def test_a_guest_that_doesnt_follow_keeps_its_memory(self) -> None:
        self.patch(libvirt_resize, "FOLLOW", 1.0)
        spec = self.spec(boot=Boot())
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)
        with self.assertRaisesRegex(WrongState, "stop it to"):
            await self.connection.resize_memory(spec.uuid, 160)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 128)
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 128)

    async def test_vcpus_while_it_runs(self) -> None:
        spec = await self.booted()
        for _again in range(2):
            await self.connection.resize_vcpus(spec.uuid, 2)
            self.assertEqual((await self.connection.get_domain(spec.uuid)).vcpus, 2)

        async def both() -> bool:
            return "2" in (await self.tell(spec.uuid, "nproc")).split()

        await until("second CPU in the guest", both)
        with self.assertRaisesRegex(WrongState, "stop it to give it"):
            await self.connection.resize_vcpus(spec.uuid, 3)
        with self.assertRaisesRegex(WrongState, "stop it to"):
            await self.connection.resize_vcpus(spec.uuid, 1)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).vcpus, 2)
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).vcpus, 2)


class DiskTests(HostCase):
    async def test_volumes(self) -> None:
        said: list[int] = []
        for format in ("qcow2", "raw"):
            for _again in range(2):
                volume = await self.connection.create_volume("default", format, 10, format, said.append)
                self.assertEqual((volume.pool, volume.name, volume.format, volume.size), ("default", format, format, 10))
                self.assertTrue(volume.path.startswith(str(self.lab.directory)))
        self.assertEqual(said[-1], 100)
        self.assertEqual(sorted(v.name for v in await self.connection.list_volumes("default")), ["qcow2", "raw"])
        for size, format in ((11, "raw"), (10, "qcow2")):
            with self.assertRaises(AlreadyThere):
                await self.connection.create_volume("default", "raw", size, format, said.append)
        with self.assertRaises(Unsupported):
            await self.connection.create_volume("default", "other", 10, "vmdk", said.append)
        for name in ("../outside", "a/b"):
            with self.assertRaises(DriverError):
                await self.connection.create_volume("default", name, 1, "raw", said.append)
        for _again in range(2):
            await self.connection.delete_volume("default", "raw")
        self.assertEqual([v.name for v in await self.connection.list_volumes("default")], ["qcow2"])
        with self.assertRaises(NoSuchThing):
            await self.connection.list_volumes("nowhere")
        with self.assertRaises(NoSuchThing):
            await self.connection.delete_volume("nowhere", "raw")
        with self.assertRaises(NoSuchThing):
            await self.connection.create_volume("nowhere", "raw", 1, "raw", said.append)

    async def test_a_copy_has_the_same_bytes(self) -> None:
        pool = "default"
        volume = await self.connection.create_volume(pool, "original", 8, "raw", lambda part: None)
        content = bytes(range(256)) * 4096 * 8  # 8 MiB
        Path(volume.path).write_bytes(content)
        told: list[int] = []
        copy = await self.connection.clone_volume(pool, "original", "raw", "copy", told.append)
        self.assertEqual(Path(copy.path).read_bytes(), content)
        self.assertEqual(told[-1], 100)
        # Other calls are answered while one is made.
        cloning = self.connection.clone_volume(pool, "original", "raw", "another", told.append)
        self.assertIn("original", [one.name for one in await self.connection.list_volumes(pool)])
        await cloning
        cancelled = self.connection.clone_volume(pool, "original", "raw", "never", told.append)
        cancelled.cancel()
        await self.assertFailure(cancelled, CancelledError)
        self.assertNotIn("never", [one.name for one in await self.connection.list_volumes(pool)])

    async def test_a_volume_without_room_leaves_nothing(self) -> None:
        with self.assertRaises(DriverError):
            await self.connection.create_volume("default", "huge", 2**31 - 1, "raw", lambda percent: None)
        self.assertEqual(list(await self.connection.list_volumes("default")), [])

    async def test_a_pool_elsewhere_is_refused(self) -> None:
        with self.assertRaisesRegex(DriverError, "default is at"):
            await self.connect(pool_path=str(self.lab.directory / "elsewhere"))

    async def test_cold(self) -> None:
        spec, disk = self.spec(), await self.volume("cold")
        await self.connection.define_domain(spec)
        for _again in range(2):
            await self.connection.attach_disk(spec.uuid, disk)
            self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, (disk,))
        other = await self.volume("other")
        with self.assertRaises(AlreadyThere):
            await self.connection.attach_disk(spec.uuid, other)
        with self.assertRaises(NoSuchThing):
            await self.connection.attach_disk(spec.uuid, DomainDisk("/nowhere", "raw", "vdb"))
        for _again in range(2):
            await self.connection.detach_disk(spec.uuid, "vda")
            self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, ())
        with self.assertRaises(NoSuchThing):
            await self.connection.attach_disk(NOBODY, disk)
        with self.assertRaises(NoSuchThing):
            await self.connection.detach_disk(NOBODY, "vda")

    async def test_hot(self) -> None:
        spec, disk = await self.booted(), await self.volume("hot")

        async def seen() -> bool:
            return "vda" in await self.tell(spec.uuid, "cat /proc/partitions")

        for _again in range(2):
            await self.connection.attach_disk(spec.uuid, disk)
        await until("disk in the guest", seen)
        with self.assertRaises(AlreadyThere):
            await self.connection.attach_disk(spec.uuid, await self.volume("other"))
        with self.assertRaises(NoSuchThing):
            await self.connection.attach_disk(spec.uuid, DomainDisk("/nowhere", "raw", "vdb"))
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, (disk,))
        await self.connection.start(spec.uuid)
        await self.up(spec.uuid, 2)
        self.assertTrue(await seen())
        for _again in range(2):
            await self.connection.detach_disk(spec.uuid, "vda")
        self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, ())
        self.assertFalse(await seen())
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, ())
        self.assertEqual(len(await self.connection.list_volumes("default")), 2)

    async def test_a_guest_that_doesnt_let_go_keeps_its_disk(self) -> None:
        self.patch(libvirt_disks, "LET_GO", 1.0)
        disk = await self.volume("kept")
        # Firmware with nothing to boot: no system that could let go.
        spec = self.spec(boot=Boot(), disks=(disk,))
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)
        for _again in range(2):
            with self.assertRaisesRegex(WrongState, "stop it first"):
                await self.connection.detach_disk(spec.uuid, "vda")
        await self.connection.pause(spec.uuid)
        with self.assertRaisesRegex(WrongState, "paused"):
            await self.connection.detach_disk(spec.uuid, "vda")
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, (disk,))
        await self.connection.detach_disk(spec.uuid, "vda")
        self.assertEqual((await self.connection.get_domain(spec.uuid)).disks, ())


class EventTests(HostCase):
    async def test_what_others_do_is_told_within_a_second(self) -> None:
        told: list[tuple[str, DomainState | None]] = []
        self.connection.subscribe(lambda uuid, state: told.append((uuid, state)))
        spec = self.spec(boot=Boot())
        await self.connection.define_domain(spec)
        domain = self.outside.lookupByUUIDString(spec.uuid)
        steps: list[tuple[str, Any, DomainState | None]] = [
            ("create", domain.create, RUNNING),
            ("suspend", domain.suspend, PAUSED),
            ("resume", domain.resume, RUNNING),
            ("destroy", domain.destroy, STOPPED),
            ("undefine", domain.undefine, None),
        ]
        await until("definition", lambda: (spec.uuid, STOPPED) in told, 1)
        for what, step, state in steps:
            told.clear()
            step()
            await until(f"news of {what}", lambda state=state: told and told[-1] == (spec.uuid, state), 1)  # type: ignore[misc]

    async def test_a_killed_guest_is_told(self) -> None:
        told: list[DomainState | None] = []
        spec = await self.booted()
        self.connection.subscribe(lambda _uuid, state: told.append(state))
        await self.tell(spec.uuid, "poweroff -f & true")
        await until("news of the end", lambda: told and told[-1] is STOPPED, 5)

    async def test_a_transient_domain_is_gone_when_it_stops(self) -> None:
        told: list[DomainState | None] = []
        self.connection.subscribe(lambda _uuid, state: told.append(state))
        domain = self.outside.createXML(
            "<domain type='qemu'><name>passing</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
        )
        (info,) = await self.connection.list_domains()
        self.assertEqual((info.name, info.state, info.autostart), ("passing", RUNNING, False))
        domain.destroy()
        await until("news of the end", lambda: told and told[-1] is None, 1)

    async def test_nothing_is_told_after_close(self) -> None:
        told: list[object] = []
        self.connection.subscribe(lambda *news: told.append(news))
        self.connection.on_lost(told.append)
        for _again in range(2):
            await self.connection.close()
        self.outside.defineXML(
            "<domain type='qemu'><name>late</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
        )
        await deferLater(reactor, 0.5, lambda: None)
        self.assertEqual(told, [])
        with self.assertRaises(Unreachable):
            await self.connection.list_domains()


class LossTests(HostCase):
    async def test_a_killed_daemon(self) -> None:
        lost: list[str] = []
        spec = await self.booted()
        self.connection.on_lost(lost.append)
        self.lab.signal_daemon(signal.SIGKILL)
        await until("news of the loss", lambda: lost, 2)
        with self.assertRaises(Unreachable):
            await self.connection.get_domain(spec.uuid)
        self.assertEqual(len(lost), 1)
        await self.connection.close()
        self.lab.wait_ready()
        # The guest lived on, and is found by the next connection.
        again = await self.connect()
        self.assertEqual((await again.get_domain(spec.uuid)).state, RUNNING)
        self.outside = libvirt.open(self.lab.uri)
        self.assertIn("RC=0", await self.tell(spec.uuid, "true"))

    async def test_a_call_under_way_when_the_daemon_dies(self) -> None:
        lost: list[str] = []
        self.connection.on_lost(lost.append)
        self.lab.signal_daemon(signal.SIGSTOP)
        asking = self.connection.list_domains()
        await deferLater(reactor, 0.2, lambda: None)
        self.lab.signal_daemon(signal.SIGKILL)
        with self.assertRaises(Unreachable):
            await asking
        self.assertEqual(len(lost), 1)
        self.lab.wait_ready()
        self.outside = libvirt.open(self.lab.uri)

    async def test_nobody_answers(self) -> None:
        host = ThreadHost(self.lab.directory)
        self.addCleanup(host.stop)
        for address in ("qemu+unix:///system?socket=/nowhere/sock", "qemu+tcp://127.0.0.1:1/system"):
            with self.assertRaises(Unreachable):
                await KvmDriver().connect(address, {}, host)


class AcceleratorTests(HostCase):
    async def test_host(self) -> None:
        info = await self.connection.host_info()
        self.assertGreater(info.memory, 500)
        self.assertGreater(info.vcpus, 0)
        self.assertRegex(info.hypervisor_version, r"^QEMU \d+\.\d+\.\d+ \(emulation\)$")
        self.assertRegex(info.driver_version, r"^libvirt \d+\.\d+\.\d+$")

    async def test_auto_takes_what_really_runs_a_guest(self) -> None:
        for options in ({}, {"probe_kernel": str(self.guest / "vmlinux")}):
            connection = await self.connect(accelerator="auto", **options)
            told: list[object] = []
            connection.subscribe(lambda *news, told=told: told.append(news))
            kind, words = await connection.accelerator()
            self.patch(connection, "_prove", None)  # it is tried out once
            self.assertEqual(await connection.accelerator(), (kind, words))
            self.assertIn(words, (await connection.host_info()).hypervisor_version)
            # The proofs are nobody's news, and nothing is left of them.
            self.assertEqual(told, [])
            self.assertEqual(self.outside.listAllDomains(0), [])
        # Whatever was chosen by the stronger proof boots Linux.
        spec = self.spec(boot=Boot(str(self.guest / "vmlinux"), str(self.guest / "initrd.gz"), CMDLINE))
        await connection.define_domain(spec)
        self.assertIn(f"type='{kind}'", self.outside.lookupByUUIDString(spec.uuid).XMLDesc())
        await connection.start(spec.uuid)
        await self.up(spec.uuid)

    async def test_forced(self) -> None:
        connection = await self.connect(accelerator="kvm")
        self.assertEqual(await connection.accelerator(), ("kvm", "KVM"))
