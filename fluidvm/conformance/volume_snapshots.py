"""Tests of snapshots of volumes."""

from __future__ import annotations

from typing import Any

from fluidvm.conformance.case import ContractCase
from fluidvm.driver import DomainDisk, DomainSpec, ISnapshots, NoSuchThing, Snapshot, Unreachable, Volume, WrongState

VERBS = ("create_volume_snapshot", "revert_volume", "delete_volume_snapshot")


class VolumeSnapshotsContract(ContractCase):
    """Tests of L{IVolumeSnapshots}."""

    async def volume(self) -> Volume:
        """Create a volume of the default format."""
        name = self.name()
        self.volumes.append(name)
        self.formats[name] = self.connection.formats[0]
        return await self.make(name)

    async def make(self, name: str) -> Volume:
        """Call the verb that creates a volume."""
        format = self.connection.formats[0]
        made: Volume = await self.ask("create_volume", self.factory.pool, name, 16, format, lambda percentage: None)
        return made

    async def used(self, volume: Volume) -> DomainSpec:
        """Define a domain that has a volume as a disk."""
        return await self.defined(disks=(DomainDisk(volume.path, volume.format, "vdy"),))

    async def has(self, volume: Volume, names: list[str], promise: str) -> None:
        """Check the names and the order of a volume's snapshots."""
        told = await self.ask("list_volume_snapshots", self.factory.pool, volume.name, promise=promise)
        for one in told:
            self.assertIsInstance(one, Snapshot, "list_volume_snapshots: it returns Snapshots")
            self.assertGreater(one.created, 0, "list_volume_snapshots: it reports when a snapshot was created")
            self.assertFalse(one.running, "list_volume_snapshots: none has memory")
        self.assertEqual([one.name for one in told], names, promise)

    async def test_kept_and_gone_back_to(self) -> None:
        volume, other = await self.volume(), await self.volume()
        at = self.factory.pool, volume.name, volume.format
        await self.has(volume, [], "list_volume_snapshots: a new volume has none")
        before = await self.listing(self.connection)
        await self.ask("create_volume_snapshot", *at, "first", promise="a snapshot of a volume is created")
        promise = "create_volume_snapshot: list_volume_snapshots lists it"
        await self.has(volume, ["first"], promise)
        told = await self.ask("list_volume_snapshots", *at[:2])
        await self.again("create_volume_snapshot", *at, "first")
        again = await self.ask("list_volume_snapshots", *at[:2])
        self.assertEqual(again, told, "create_volume_snapshot: a repetition changes nothing")
        await self.ask("create_volume_snapshot", *at, "second")
        await self.has(volume, ["first", "second"], "list_volume_snapshots: the oldest comes first")
        for _ in range(2):
            await self.ask("revert_volume", *at, "first", promise="it can be reverted to an older snapshot")
        await self.has(volume, ["first", "second"], "revert_volume: snapshots stay")
        self.assertEqual(
            await self.listing(self.connection), before, "create_volume_snapshot: no other domain or volume is listed"
        )
        await self.ask("delete_volume_snapshot", *at, "first", promise="a snapshot is deleted")
        await self.has(volume, ["second"], "delete_volume_snapshot: list_volume_snapshots doesn't list it")
        await self.again("delete_volume_snapshot", *at, "first")
        await self.has(other, [], "create_volume_snapshot: another volume isn't affected")
        await self.ask("delete_volume", *at[:2], promise="a volume with snapshots is removed")
        await self.make(volume.name)
        await self.has(volume, [], "delete_volume: a volume's snapshots are removed with it")

    async def test_a_domain_that_uses_it(self) -> None:
        volume = await self.volume()
        spec = await self.used(volume)
        at = self.factory.pool, volume.name, volume.format
        await self.ask("create_volume_snapshot", *at, "off", promise="a snapshot of a stopped domain's volume is created")
        await self.ask("revert_volume", *at, "off", promise="a stopped domain's volume is reverted")
        await self.ask("start", spec.uuid, promise="start: a domain runs whose volume has snapshots")
        await self.ask("pause", spec.uuid)
        calls = [(verb, "new" if verb == "create_volume_snapshot" else "off") for verb in VERBS]
        for state in ("a paused", "a running"):
            for verb, name in calls:
                await self.refuses(WrongState, f"{state} domain's volume", verb, *at, name)
            await self.has(volume, ["off"], "after failure a volume's snapshots are as before")
            if state == "a paused":
                await self.ask("resume", spec.uuid)
        await self.ask("stop", spec.uuid)
        await self.ask("delete_volume_snapshot", *at, "off", promise="a stopped domain's volume's snapshot is deleted")

    async def test_those_of_the_domain_are_others(self) -> None:
        if not ISnapshots.providedBy(self.connection):  # type: ignore[attr-defined]
            return
        volume = await self.volume()
        spec = await self.used(volume)
        at = self.factory.pool, volume.name, volume.format

        async def of_the_domain() -> list[Any]:
            return list(await self.ask("list_snapshots", spec.uuid))

        await self.ask("create_snapshot", spec.uuid, "same")
        theirs = await of_the_domain()
        await self.has(volume, [], "create_snapshot: a domain's snapshot isn't its volume's")
        await self.ask(
            "create_volume_snapshot", *at, "same", promise="a volume can have a snapshot with the same name as its domain's"
        )
        await self.ask("revert_volume", *at, "same")
        await self.ask("revert_snapshot", spec.uuid, "same", promise="a domain whose volume has snapshots is reverted")
        await self.ask("delete_volume_snapshot", *at, "same")
        self.assertEqual(await of_the_domain(), theirs, "delete_volume_snapshot: the domain's own isn't affected")
        await self.ask("revert_snapshot", spec.uuid, "same", promise="the domain's snapshot still exists")

    async def test_what_is_not_there(self) -> None:
        volume = await self.volume()
        pool = self.factory.pool
        at = pool, volume.name, volume.format
        await self.refuses(NoSuchThing, "a snapshot that doesn't exist", "revert_volume", *at, "none")
        await self.ask("delete_volume_snapshot", *at, "none", promise="a repetition succeeds")
        for where in ((pool, self.name()), (self.name(), volume.name)):
            await self.raises(NoSuchThing, "a volume that doesn't exist", "list_volume_snapshots", *where)
            for verb in VERBS:
                await self.refuses(NoSuchThing, "a volume that doesn't exist", verb, *where, volume.format, "first")
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "list_volume_snapshots", pool, volume.name)
        for verb in VERBS:
            await self.raises(Unreachable, "a closed connection", verb, *at, "first")
