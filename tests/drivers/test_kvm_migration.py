"""Moving domains between two libvirt hosts: their bytes, and what goes wrong meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred

from fluidvm.driver import DomainSpec, DomainState, NoSuchThing, WrongState
from fluidvm.drivers import libvirt_migration
from fluidvm.drivers.kvm import KvmConnection, KvmDriver

from .real_host import HostCase, ThreadHost, other_host

SIZE = 64


def ignore(percentage: int) -> None:
    pass


class KvmMigrationTests(HostCase):
    async def connect_other(self) -> KvmConnection:
        lab = other_host()
        host = ThreadHost(Path(self.mktemp()))
        self.addCleanup(host.stop)
        options = {**self.options, "pool_path": str(lab.directory / "pool")}
        connection = await KvmDriver().connect(lab.uri, options, host)
        self.addCleanup(lambda: maybeDeferred(connection.close))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.leave(connection)))
        return connection

    async def leave(self, connection: KvmConnection) -> None:
        for domain in await connection.list_domains():
            await connection.stop(domain.uuid)
            await connection.undefine_domain(domain.uuid)
        for volume in await connection.list_volumes("default"):
            await connection.delete_volume("default", volume.name)

    async def with_disk(self, there: KvmConnection, data: bytes) -> tuple[DomainSpec, Path, Path]:
        """A domain with a raw disk: as it is to be there, and the volumes' files here and there."""
        disk = await self.volume("here", SIZE)
        with Path(disk.path).open("r+b") as file:
            file.seek(2**20)
            file.write(data)
        spec = self.spec(disks=(disk,))
        await self.connection.define_domain(spec)
        made = await there.create_volume("default", "there", SIZE, "raw", ignore)
        return replace(spec, disks=(replace(disk, path=made.path),)), Path(disk.path), Path(made.path)

    async def test_bytes_and_holes(self) -> None:
        there = await self.connect_other()
        spec, source, target = await self.with_disk(there, bytes(range(256)) * 12345)
        told: list[int] = []
        await self.connection.migrate(spec, there, False, True, told.append)
        self.assertEqual(source.read_bytes(), target.read_bytes())
        self.assertLess(target.stat().st_blocks * 512, 16 * 2**20)
        self.assertEqual(told[-1], 100)

    async def test_cancelled_while_it_copies(self) -> None:
        there = await self.connect_other()
        spec, source, target = await self.with_disk(there, bytes(range(1, 256)) * (60 * 2**20 // 255))
        self.patch(libvirt_migration, "LOOK", 0.005)
        moving = self.connection.migrate(spec, there, False, True, lambda part: reactor.callLater(0, moving.cancel))
        await self.assertFailure(moving, CancelledError)
        self.assertEqual(await there.list_domains(), [])
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, DomainState.STOPPED)
        # Nobody writes any more: it can be removed, and another copy begun.
        await there.delete_volume("default", "there")
        self.assertFalse(target.exists())
        await there.create_volume("default", "there", SIZE, "raw", ignore)
        await self.connection.migrate(spec, there, False, True, ignore)
        self.assertEqual(source.read_bytes(), target.read_bytes())
        await there.get_domain(spec.uuid)
        await self.assertFailure(self.connection.get_domain(spec.uuid), NoSuchThing)

    async def test_the_host_lost_between_the_two_steps(self) -> None:
        """Defined there, not yet removed here: a repetition ends it, without copying anew."""
        there = await self.connect_other()
        spec, _, target = await self.with_disk(there, b"x" * 1000)
        await there.define_domain(spec)
        await self.connection.migrate(spec, there, False, True, ignore)
        await self.assertFailure(self.connection.get_domain(spec.uuid), NoSuchThing)
        self.assertEqual(target.read_bytes().strip(b"\0"), b"")

    async def test_a_running_one_stays(self) -> None:
        there = await self.connect_other()
        spec = await self.booted()
        await self.assertFailure(self.connection.migrate(spec, there, True, False, ignore), WrongState)
        self.assertEqual(await there.list_domains(), [])
