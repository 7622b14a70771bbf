"""Moving domains between two libvirt hosts: their bytes, and what goes wrong meanwhile."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import libvirt
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred

from fluidvm.driver import DomainSpec, DomainState, DriverError, NoSuchThing, Unreachable
from fluidvm.drivers.kvm import KvmConnection, KvmDriver
from fluidvm.drivers.libvirt import migration as libvirt_migration
from fluidvm.drivers.libvirt.live_migration import moved_xml
from tests.real.real_host import HostCase, ThreadHost, other_host, until

SIZE = 64


def ignore(percentage: int) -> None:
    pass


class TwoHostsCase(HostCase):
    async def connect_other(self) -> KvmConnection:
        lab = other_host()
        (lab.directory / "console").mkdir(exist_ok=True)
        host = ThreadHost(Path(self.mktemp()))
        self.addCleanup(host.stop)
        options = {
            **self.options,
            "pool_path": str(lab.directory / "pool"),
            "migration_uri": f"unix://{lab.directory}",
            "console_log_dir": str(lab.directory / "console"),
        }
        connection = await KvmDriver().connect(lab.uri, options, host)
        self.addCleanup(lambda: maybeDeferred(connection.close))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.leave(connection)))
        return connection

    async def with_guest(self, there: KvmConnection) -> DomainSpec:
        """A running domain with a disk, as it is to be there; its console's log there is another file."""
        here = await self.volume("here", SIZE)
        made = await there.create_volume("default", "there", SIZE, "raw", ignore)
        spec = await self.booted(disks=(here,))
        return replace(spec, disks=(replace(here, path=made.path),))

    def slow(self, spec: DomainSpec) -> None:
        """Have the domain's memory take minutes to go over."""
        self.outside.lookupByUUIDString(spec.uuid).migrateSetMaxSpeed(1)

    async def is_here(self, spec: DomainSpec) -> None:
        """It runs here as before, and its guest obeys."""
        self.assertIs((await self.connection.get_domain(spec.uuid)).state, DomainState.RUNNING)
        self.assertIn("RC=0", await self.tell(spec.uuid, "true"))

    async def leave(self, connection: KvmConnection) -> None:
        try:
            domains = await connection.list_domains()
        except Unreachable:
            return  # a test that killed the daemon has connected anew
        for domain in domains:
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


class KvmMigrationTests(TwoHostsCase):
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
        moving = self.connection.migrate(spec, there, False, True, lambda part: reactor.callLater(0, moving.cancel))  # type: ignore[arg-type]
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


class LiveTests(TwoHostsCase):
    """Domains that run meanwhile. Their memory goes over a UNIX socket: the hosts share no network."""

    async def test_the_guest_goes_on(self) -> None:
        there = await self.connect_other()
        spec = await self.with_guest(there)
        await self.tell(spec.uuid, "told=before")
        told: list[int] = []
        await self.connection.migrate(spec, there, True, True, told.append)
        self.assertEqual((told, told[-1]), (sorted(told), 100))
        info = await there.get_domain(spec.uuid)
        self.assertEqual((info.state, info.disks), (DomainState.RUNNING, spec.disks))
        await self.assertFailure(self.connection.get_domain(spec.uuid), NoSuchThing)
        # The rest of the test speaks with the other host. What the guest has in its memory it has still.
        self.lab, self.outside, self.connection = other_host(), libvirt.open(other_host().uri), there
        self.assertIn("told is before", await self.tell(spec.uuid, "echo told is $told"))
        await there.stop(spec.uuid)
        self.assertEqual((await there.get_domain(spec.uuid)).disks, spec.disks, "it is defined there so, too")

    async def test_cancelled(self) -> None:
        there = await self.connect_other()
        spec = await self.with_guest(there)
        self.slow(spec)
        moving = self.connection.migrate(spec, there, True, True, ignore)
        domain = self.outside.lookupByUUIDString(spec.uuid)
        await until("a move under way", lambda: domain.jobStats().get("data_processed"))
        moving.cancel()
        await self.assertFailure(moving, CancelledError)
        await self.is_here(spec)
        self.assertEqual(await there.list_domains(), [])
        domain.migrateSetMaxSpeed(1000)
        await self.connection.migrate(spec, there, True, True, ignore)
        self.assertIs((await there.get_domain(spec.uuid)).state, DomainState.RUNNING)

    async def test_cancelled_before_it_has_begun(self) -> None:
        there = await self.connect_other()
        spec = await self.with_guest(there)
        self.slow(spec)
        moving = self.connection.migrate(spec, there, True, True, ignore)
        moving.cancel()
        await self.assertFailure(moving, CancelledError)
        await self.is_here(spec)
        self.assertEqual(await there.list_domains(), [])

    async def test_the_other_host_vanishes(self) -> None:
        there = await self.connect_other()
        spec = await self.with_guest(there)
        self.slow(spec)
        moving = self.connection.migrate(spec, there, True, True, ignore)
        await until("a move", lambda: self.outside.lookupByUUIDString(spec.uuid).jobStats().get("data_processed"))
        other_host().signal_daemon()
        error = await self.assertFailure(moving, Unreachable)
        self.assertIn("other host was lost", str(error))
        await self.is_here(spec)
        again = await until("the daemon again", self.reconnect)

        async def nothing() -> bool:
            return await again.list_domains() == []

        await until("the end of what is left of it there", nothing)

    async def test_who_moves_it_is_killed(self) -> None:
        """The other host gives it up by itself, this one when it is to be moved again."""
        there = await self.connect_other()
        spec = await self.with_guest(there)
        uris = [f"--{name} unix://{other_host().directory}/{name}" for name in ("migrateuri", "disks-uri")]
        # The same as the server does, in another process.
        words = f"migrate --bandwidth 1 --live --persistent --undefinesource --copy-storage-all {' '.join(uris)} {spec.uuid}"
        definition = Path(self.mktemp())
        text = self.outside.lookupByUUIDString(spec.uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
        definition.write_text(moved_xml(text, {str(self.lab.directory / "pool" / "here"): spec.disks[0].path}, ""))
        virsh = subprocess.Popen(
            ["virsh", "-c", self.lab.uri, *words.split(), other_host().uri, "--xml", definition],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        domain = self.outside.lookupByUUIDString(spec.uuid)
        await until("a move under way", lambda: domain.jobStats().get("data_processed"))
        virsh.kill()
        virsh.communicate()

        async def given_up() -> bool:
            return not await there.list_domains()

        await until("the other host giving up", given_up)
        await self.is_here(spec)
        await there.delete_volume("default", "there")  # as the server does, for it may be half a copy
        await there.create_volume("default", "there", SIZE, "raw", ignore)
        await self.connection.migrate(spec, there, True, True, ignore)
        self.assertIs((await there.get_domain(spec.uuid)).state, DomainState.RUNNING)

    async def reconnect(self) -> KvmConnection | None:
        """Connect to the other host, if it answers."""
        try:
            return await self.connect_other()
        except DriverError:
            return None

    async def test_a_place_that_is_none(self) -> None:
        there = await self.connect_other()
        spec = await self.with_guest(there)
        there._options = {**there._options, "migration_uri": f"unix://{self.lab.directory}/none"}
        error = await self.assertFailure(self.connection.migrate(spec, there, True, True, ignore), DriverError)
        self.assertIn("none", str(error))
        await self.is_here(spec)
        self.assertEqual(await there.list_domains(), [])

    async def test_what_was_killed_after_it_had_arrived(self) -> None:
        """The paused rest of a domain that runs on the other host is removed by a repetition."""
        there = await self.connect_other()
        spec = self.spec()
        await there.define_domain(spec)
        await there.start(spec.uuid)
        here = await self.booted(uuid=spec.uuid)
        await self.connection.pause(here.uuid)
        await self.connection.migrate(here, there, True, False, ignore)
        await self.assertFailure(self.connection.get_domain(spec.uuid), NoSuchThing)
        self.assertIs((await there.get_domain(spec.uuid)).state, DomainState.RUNNING)
