"""What guests write onto raw disks, on a real host: nothing of the host's files comes out, and none is touched."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from fluidvm.conformance.heads import heads
from fluidvm.driver import DomainDisk, NoSuchThing, Unsupported, WrongState
from fluidvm.drivers.kvm import KvmConnection
from lab.host import LibvirtHost
from tests import TIMEOUT
from tests.real.hostile import MIB, WORDS, hidden
from tests.real.real_host import HostCase, other_host

T = TypeVar("T")
SIZE, LARGER, LARGEST = 12, 16, 20
POOL = "default"


def ignore(percentage: int) -> None:
    pass


def written(disk: DomainDisk, data: bytes) -> bytes:
    """Write what a guest would, and give all of the disk's bytes."""
    with Path(disk.path).open("r+b") as file:
        file.write(data)
    return Path(disk.path).read_bytes()


class HostileDiskTests(HostCase):
    timeout = 900

    async def setUp(self) -> None:
        await super().setUp()
        self.secret, self.images = hidden(self, self.lab.directory)
        self.before = self.secret.state()

    async def bytes_of(self, name: str) -> bytes:
        """All of a raw volume's bytes, through the driver."""
        length = await self.connection.measure_volume(POOL, name, "raw")
        return await self.connection.read_volume(POOL, name, "raw", 0, length)

    async def test_a_stopped_domains(self) -> None:
        disks = {}
        for number, (what, data) in enumerate(self.images.items()):
            name, target = f"disk{number}", "vd" + "abcdefghijklmnopqrstuvwx"[number]
            disk = replace(await self.volume(name, SIZE), target=target)
            disks[name] = disk
            whole = written(disk, data)
            told = {one.name: one for one in await self.connection.list_volumes(POOL)}[name]
            self.assertEqual((told.format, told.size, told.path), ("raw", SIZE, disk.path), what)
            if what == "parallels":
                # libvirt takes it for a directory.
                for verb, more in (("resize_volume", (LARGER,)), ("clone_volume", ("x", ignore)), ("read_volume", (0, 1))):
                    with self.assertRaisesRegex(WrongState, "begins like a Virtuozzo image"):
                        await getattr(self.connection, verb)(POOL, name, "raw", *more)
                self.assertEqual([one.name for one in await self.connection.list_volumes(POOL) if one.name == "x"], [])
                continue
            grown = await self.connection.resize_volume(POOL, name, "raw", LARGER)
            self.assertEqual((grown.format, grown.size), ("raw", LARGER), what)
            copy = await self.connection.clone_volume(POOL, name, "raw", f"{name}-copy", ignore)
            self.assertEqual((copy.format, copy.size), ("raw", LARGER), what)
            for one in (name, copy.name):
                self.assertTrue(await self.bytes_of(one) == whole.ljust(LARGER * MIB, b"\0"), what)
            self.assertEqual(await self.connection.volume_of(copy.path, "raw"), copy, what)
            with self.assertRaises(Unsupported, msg=what):
                await self.connection.create_volume_snapshot(POOL, name, "raw", "one")
            with self.assertRaises(NoSuchThing, msg=what):
                await self.connection.revert_volume(POOL, name, "raw", "one")
            self.assertEqual(self.secret.state(), self.before, what)
            await self.connection.delete_volume(POOL, copy.name)
        spec = self.spec(disks=tuple(disks.values()))
        await self.connection.define_domain(spec)
        with self.assertRaises(Unsupported):
            await self.connection.create_snapshot(spec.uuid, "one")
        await self.connection.start(spec.uuid)
        with self.assertRaises(Unsupported):
            await self.connection.create_snapshot(spec.uuid, "one")
        for (name, disk), (what, data) in zip(disks.items(), self.images.items(), strict=True):
            await self.connection.resize_disk(spec.uuid, disk, LARGEST)
            self.assertTrue(Path(disk.path).read_bytes() == data.ljust(LARGEST * MIB, b"\0"), what)
            told = {one.name: one for one in await self.connection.list_volumes(POOL)}[name]
            self.assertEqual((told.format, told.size), ("raw", LARGEST), what)
            self.assertEqual(self.secret.state(), self.before, what)
        self.assertEqual((await self.connection.get_spec(spec.uuid)).disks, spec.disks)
        await self.connection.stop(spec.uuid)
        for name in disks:
            await self.connection.delete_volume(POOL, name)
        self.assertEqual(list(await self.connection.list_volumes(POOL)), [])
        self.assertEqual(self.secret.state(), self.before)

    async def test_a_domain_that_is_moved(self) -> None:
        there = await self.connect_other()
        disks, wholes, new = [], [], []
        for number, what in enumerate(("qcow2", "qcow2 with a data file", "qed, any backing", "vmdk flat", "vdi")):
            disk = replace(await self.volume(f"disk{number}", SIZE), target="vd" + "abcde"[number])
            disks.append(disk)
            wholes.append(written(disk, self.images[what]))
            made = await there.create_volume(POOL, f"disk{number}", SIZE, "raw", ignore)
            new.append(replace(disk, path=made.path))
        spec = self.spec(disks=tuple(disks))
        await self.connection.define_domain(spec)
        await self.connection.migrate(replace(spec, disks=tuple(new)), there, False, True, ignore)
        for disk, whole in zip(new, wholes, strict=True):
            self.assertTrue(Path(disk.path).read_bytes() == whole)
        told = await there.list_volumes(POOL)
        self.assertEqual({(one.format, one.size) for one in told}, {("raw", SIZE)})
        self.assertEqual(self.secret.state(), self.before)

    async def connect_other(self) -> KvmConnection:
        there = await self.connect_to(other_host())

        async def leave() -> None:
            for domain in await there.list_domains():
                await there.undefine_domain(domain.uuid)
            for volume in await there.list_volumes(POOL):
                await there.delete_volume(POOL, volume.name)

        self.addCleanup(leave)
        return there

    async def test_a_guest_writes_it_itself(self) -> None:
        disk = await self.volume("mine", SIZE)
        spec = await self.booted(disks=(disk,))
        head = heads(str(self.secret.path).encode())["QED with a backing file"]
        for offset in range(0, len(head), 60):
            words = "".join(f"\\{byte:03o}" for byte in head[offset : offset + 60])
            line = f"printf '{words}' | dd of=/dev/vda bs=1 seek={offset} conv=notrunc,fsync"
            self.assertIn("RC=0", await self.tell(spec.uuid, line))
        await self.connection.stop(spec.uuid)
        whole = head.ljust(SIZE * MIB, b"\0")
        self.assertTrue(Path(disk.path).read_bytes() == whole, "the guest has written it")
        await self.connection.clone_volume(POOL, "mine", "raw", "copy", ignore)
        await self.connection.resize_volume(POOL, "mine", "raw", LARGER)
        self.assertTrue(await self.bytes_of("copy") == whole)
        self.assertTrue(await self.bytes_of("mine") == whole.ljust(LARGER * MIB, b"\0"))
        sizes = {one.name: (one.format, one.size) for one in await self.connection.list_volumes(POOL)}
        self.assertEqual(sizes, {"mine": ("raw", LARGER), "copy": ("raw", SIZE)})
        await self.connection.start(spec.uuid)
        self.assertEqual(self.secret.state(), self.before)

    async def test_what_is_written_is_one_libvirt_believes(self) -> None:
        """Else these tests would show nothing: libvirt itself goes by the heads."""
        believed = []
        pool = self.outside.storagePoolLookupByName(POOL)
        for number, (what, data) in enumerate(self.images.items()):
            if what == "parallels":
                continue  # it couldn't be removed from outside
            written(await self.volume(f"disk{number}", SIZE), data)
            pool.refresh()
            try:
                text = pool.storageVolLookupByName(f"disk{number}").XMLDesc()
            except Exception:
                believed.append(what)  # it fails at what is in it
            else:
                believed += [what] if "type='raw'" not in text or str(self.secret.path) in text else []
        for what in ("qcow", "qcow2", "qcow2 with a data file", "qed", "qed, any backing", "vdi", "vmdk", "vpc"):
            self.assertIn(what, believed)

    async def test_a_node_without_raw_disks(self) -> None:
        connection = await self.connect(raw_disks=False)
        with self.assertRaises(Unsupported):
            await connection.create_volume(POOL, "mine", SIZE, "raw", ignore)
        self.assertEqual(list(await connection.list_volumes(POOL)), [])
        await connection.create_volume(POOL, "mine", SIZE, "qcow2", ignore)
        # Those that are there stay usable.
        await self.volume("raw", SIZE)
        await connection.resize_volume(POOL, "raw", "raw", LARGER)

    async def test_a_qcow2_volume_that_leads_to_another_file(self) -> None:
        """It can't come about; if it does, by an administrator's hand, nothing goes along."""
        await self.volume("mine", SIZE, "qcow2")
        path = self.lab.directory / "pool" / "mine"
        path.write_bytes(self.images["qcow2"])
        path.chmod(0o600)
        for verb, more in (
            ("resize_volume", (LARGER,)),
            ("clone_volume", ("copy", ignore)),
            ("create_volume_snapshot", ("one",)),
        ):
            with self.assertRaisesRegex(Unsupported, "backing file"):
                await getattr(self.connection, verb)(POOL, "mine", "qcow2", *more)
        with self.assertRaisesRegex(Unsupported, "backing file"):
            await self.connection.volume_of(str(path), "qcow2")
        self.assertEqual([one.name for one in path.parent.iterdir()], ["mine"])
        self.assertEqual(self.secret.state(), self.before)
        self.assertFalse(WORDS in path.read_bytes())


def qcow2(backing: str, format: str) -> bytes:
    """A head that names a backing file. @param format: the backing file's; empty: libvirt looks what it is."""
    name, kind = backing.encode(), format.encode()
    head = b"QFI\xfb" + struct.pack(">IQIIQ", 3, 512, len(name), 16, SIZE * MIB)
    head = head.ljust(96, b"\0") + struct.pack(">II", 4, 104)
    if kind:
        head += struct.pack(">II", 0xE2792ACA, len(kind)) + kind.ljust(8, b"\0")
    return head.ljust(512, b"\0") + name


class EndlessFileTests(HostCase):
    """What a guest can name as its disk's backing file, on a host that hides what systemd's drop-in does."""

    timeout = 900

    async def setUp(self) -> None:
        await super().setUp()
        # One of its own, which is gone with whatever hangs.
        directory = Path(tempfile.mkdtemp(prefix="fluidvm-"))
        self.addCleanup(shutil.rmtree, directory)
        self.own = LibvirtHost(directory, number=3)
        self.addCleanup(self.own.stop)
        self.own.start()
        (directory / "console").mkdir()
        self.there = await self.connect_to(self.own)
        self.addCleanup(self.own.stop)

    async def soon(self, work: Awaitable[T]) -> T:
        """Wait, but not for ever."""
        waiting = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)  # type: ignore[arg-type]
        return await waiting.addTimeout(TIMEOUT, reactor)

    async def test_nothing_is_held_up(self) -> None:
        sizes: dict[str, int] = {}
        for path in ("/proc/kmsg", "/dev/kmsg", "/sys/kernel/tracing/trace_pipe", "/dev/zero", "/dev/tty"):
            for format in ("", "raw", "qcow2"):
                name = f"disk{len(sizes)}"
                made = await self.soon(self.there.create_volume(POOL, name, SIZE, "raw", ignore))
                with Path(made.path).open("r+b") as file:
                    file.write(qcow2(path, format))
                # libvirt looks at the pool when it is asked for its volumes; after bytes were written it does so by itself.
                await self.soon(self.there.list_volumes(POOL))
                await self.soon(self.there.resize_volume(POOL, name, "raw", LARGER))
                sizes[name] = LARGER
                told = await self.soon(self.there.list_volumes(POOL))
                self.assertEqual({one.name: one.size for one in told}, sizes, path)
        # And when it starts.
        self.own.signal_daemon()
        await self.soon(deferToThread(self.own.wait_ready))
        self.there = await self.soon(self.connect_to(self.own))
        told = await self.soon(self.there.list_volumes(POOL))
        self.assertEqual({one.name: one.size for one in told}, sizes)
