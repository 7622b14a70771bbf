"""Tests of volumes, and of attaching them to domains as disks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError

from fluidvm.conformance.case import RUNNING, STOPPED, ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import AlreadyThere, DomainDisk, DomainSpec, NoSuchThing, Unreachable, Volume

SIZE = 4
"""Size of a volume in MiB."""
NO_POOL = "contract-no-such-pool"


class VolumeCase(ContractCase):
    """Base class of tests that create volumes."""

    async def volume(self, format: str = "", **given: Any) -> Volume:
        """Create a volume; it is removed after the test."""
        name = given.get("name", self.name())
        self.volumes.append(name)
        format = self.formats[name] = format or self.connection.formats[0]
        told: list[int] = []
        volume: Volume = await self.ask(
            "create_volume", self.factory.pool, name, SIZE, format, told.append, promise="an empty volume is created"
        )
        self.assertEqual(told, sorted(told), "create_volume: progress never decreases")
        self.assertTrue(all(type(part) is int and 0 <= part <= 100 for part in told), "create_volume: progress is 0 to 100")
        return volume

    def create(self, volume: Volume, **changes: Any) -> tuple[Any, ...]:
        """The verb that creates a volume, and its arguments with changes."""
        wanted = replace(volume, **changes)
        return "create_volume", wanted.pool, wanted.name, wanted.size, wanted.format, lambda part: None

    async def listed(self, promise: str) -> dict[str, Volume]:
        """The pool's volumes by name."""
        told = await self.ask("list_volumes", self.factory.pool, self.formats, promise=promise)
        return {volume.name: volume for volume in told}

    async def cancelled(self, verb: str, making: Any, name: str) -> None:
        """Cancel the creation of a volume: nothing of it is left, unless it was already complete."""
        making.cancel()
        made = True
        try:
            await self.wait(verb, lambda: making)
        except CancelledError:
            made = False
        promise = f"{verb}: after cancelling, it stops and nothing of it is left"
        self.assertEqual(name in await self.listed(promise), made, promise)


class DisksContract(VolumeCase):
    """Tests of L{IDisks}."""

    async def disks(self, spec: DomainSpec, promise: str) -> list[DomainDisk]:
        """A domain's disks other than those in its specification."""
        told = (await self.told(spec.uuid, promise)).disks
        return sorted((disk for disk in told if disk not in spec.disks), key=lambda disk: disk.target)

    # volumes

    async def test_volumes(self) -> None:
        formats = self.connection.formats
        self.assertTrue(formats, "formats: there is at least one")
        bystander = await self.volume()
        for format in formats:
            volume = await self.volume(format)
            promise = f"create_volume: list_volumes lists it ({format})"
            self.assertEqual((volume.pool, volume.format, volume.size), (self.factory.pool, format, SIZE), promise)
            self.assertEqual((await self.listed(promise)).get(volume.name), volume, promise)
            self.assertEqual(
                await self.again(*self.create(volume)), volume, "create_volume: a repetition returns the volume"
            )
            await self.refuses(AlreadyThere, "a name that a volume of another size has", *self.create(volume, size=2 * SIZE))
            for other in formats:
                if other != format:
                    await self.refuses(
                        AlreadyThere, "a name that a volume of another format has", *self.create(volume, format=other)
                    )
            await self.ask("delete_volume", volume.pool, volume.name, promise="a volume is removed")
            promise = "delete_volume: list_volumes doesn't list it"
            self.assertNotIn(volume.name, await self.listed(promise), promise)
            await self.again("delete_volume", volume.pool, volume.name)
        promise = "create_volume, delete_volume: another volume isn't affected"
        self.assertEqual((await self.listed(promise)).get(bystander.name), bystander, promise)

    async def test_a_cancelled_volume(self) -> None:
        volume = await self.volume()
        name = self.name()
        self.volumes.append(name)
        making = self.connection.create_volume(volume.pool, name, SIZE, volume.format, lambda part: None)
        await self.cancelled("create_volume", making, name)

    async def test_a_pool_that_is_not_there(self) -> None:
        format, name = self.connection.formats[0], self.name()
        self.volumes.append(name)
        when = "a pool that doesn't exist"
        await self.refuses(NoSuchThing, when, "list_volumes", NO_POOL)
        await self.refuses(NoSuchThing, when, "create_volume", NO_POOL, name, SIZE, format, lambda part: None)
        await self.refuses(NoSuchThing, when, "delete_volume", NO_POOL, "x")

    # disks

    async def test_a_stopped_domain_is_given_disks(self) -> None:
        spec, other = await self.defined(), await self.defined()
        one, two = await self.volume(), await self.volume()
        first, second = DomainDisk(one.path, one.format, "vdy"), DomainDisk(two.path, two.format, "vdz")
        for disk, there in ((first, [first]), (second, [first, second])):
            promise = "attach_disk: get_domain reports the disk"
            await self.ask("attach_disk", spec.uuid, disk, promise=promise)
            self.assertEqual(await self.disks(spec, promise), there, promise)
            await self.again("attach_disk", spec.uuid, disk)
        await self.refuses(
            AlreadyThere, "a target that another disk has", "attach_disk", spec.uuid, replace(second, target="vdy")
        )
        await self.ask("start", spec.uuid)
        promise = "attach_disk: the disk is there after a start"
        self.assertEqual(await self.disks(spec, promise), [first, second], promise)
        await self.ask("stop", spec.uuid)
        promise = "detach_disk: get_domain doesn't report the disk"
        await self.ask("detach_disk", spec.uuid, "vdy", promise=promise)
        self.assertEqual(await self.disks(spec, promise), [second], promise)
        await self.again("detach_disk", spec.uuid, "vdy")
        promise = "detach_disk: the volume stays"
        self.assertEqual((await self.listed(promise)).get(one.name), one, promise)
        promise = "attach_disk, detach_disk: another domain isn't affected"
        self.assertEqual(await self.disks(other, promise), [], promise)
        await self.ask("undefine_domain", spec.uuid)
        promise = "undefine_domain: a domain's volumes stay"
        self.assertEqual((await self.listed(promise)).get(two.name), two, promise)

    async def test_a_running_domain_is_given_disks(self) -> None:
        spec = await self.started()
        volume, other = await self.volume(), await self.volume()
        disk = DomainDisk(volume.path, volume.format, "vdz")
        await self.factory.booted(self.connection, spec.uuid)
        promise = "attach_disk: a running domain gets the disk at once"
        await self.ask("attach_disk", spec.uuid, disk, promise=promise)
        self.assertEqual(await self.disks(spec, promise), [disk], promise)
        await self.again("attach_disk", spec.uuid, disk)
        taken = DomainDisk(other.path, other.format, "vdz")
        await self.refuses(AlreadyThere, "a target that another disk has", "attach_disk", spec.uuid, taken)
        gone = await self.volume()
        await self.ask("delete_volume", gone.pool, gone.name)
        missing = DomainDisk(gone.path, gone.format, "vdy")
        await self.refuses(NoSuchThing, "a file that doesn't exist", "attach_disk", spec.uuid, missing)
        promise = "detach_disk: a running domain's guest releases the disk"
        await self.ask("detach_disk", spec.uuid, "vdz", promise=promise)
        self.assertEqual(await self.disks(spec, promise), [], promise)
        await self.again("detach_disk", spec.uuid, "vdz")
        kept = DomainDisk(other.path, other.format, "vdy")
        await self.ask("attach_disk", spec.uuid, kept)
        await self.is_in(RUNNING, spec.uuid, "attach_disk, detach_disk: the domain keeps running")
        await self.ask("stop", spec.uuid)
        promise = "attach_disk, detach_disk: the definition is changed, too"
        self.assertEqual(await self.disks(spec, promise), [kept], promise)
        await self.ask("start", spec.uuid)
        self.assertEqual(await self.disks(spec, promise), [kept], promise)

    async def test_what_disks_need(self) -> None:
        spec, volume = await self.defined(), await self.volume()
        disk = DomainDisk(volume.path, volume.format, "vdz")
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "attach_disk", NOBODY, disk)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "detach_disk", NOBODY, "vdz")
        await self.ask("delete_volume", volume.pool, volume.name)
        await self.refuses(NoSuchThing, "a file that doesn't exist", "attach_disk", spec.uuid, disk)

    async def test_a_domain_whose_file_is_missing(self) -> None:
        volume = await self.volume()
        spec = self.spec()
        spec = replace(spec, disks=(*spec.disks, DomainDisk(volume.path, volume.format, "vdz")))
        await self.ask("define_domain", spec, promise="a domain is defined with its disks")
        promise = "define_domain: get_domain reports the disks"
        self.assertEqual((await self.told(spec.uuid, promise)).disks, spec.disks, promise)
        await self.ask("delete_volume", volume.pool, volume.name)
        await self.refuses(NoSuchThing, "a domain whose disk's file is missing", "start", spec.uuid)
        await self.is_in(STOPPED, spec.uuid, "start: after failure it is stopped")

    async def test_a_closed_connection(self) -> None:
        spec, volume = await self.defined(), await self.volume()
        disk = DomainDisk(volume.path, volume.format, "vdz")
        await self.ask("close")
        when = "a closed connection"
        await self.raises(Unreachable, when, "list_volumes", volume.pool)
        await self.raises(Unreachable, when, *self.create(volume))
        await self.raises(Unreachable, when, "delete_volume", volume.pool, volume.name)
        await self.raises(Unreachable, when, "attach_disk", spec.uuid, disk)
        await self.raises(Unreachable, when, "detach_disk", spec.uuid, "vdz")
