"""Tests of the descriptions of domains for their adoption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fluidvm.conformance.connection import NOBODY
from fluidvm.conformance.disks import VolumeCase
from fluidvm.driver import DomainDisk, DomainInterface, DomainSpec, IDisks, INetworks, NoSuchThing, Unreachable

NO_PATH = "/contract/no/such/volume"
MAC = "52:54:00:ad:09:70"


class AdoptionContract(VolumeCase):
    """Tests of L{IAdoption}."""

    async def tells(self, wanted: DomainSpec, promise: str) -> DomainSpec:
        """Check the description of a domain; if no interface model was requested, any is accepted."""
        told: DomainSpec = await self.ask("get_spec", wanted.uuid, promise=promise)
        models = {interface.mac: interface.model for interface in told.interfaces}
        plugs = tuple(replace(one, model=one.model or models.get(one.mac, "")) for one in wanted.interfaces)
        self.assertEqual(told, replace(wanted, interfaces=plugs), promise)
        return told

    async def test_a_domain(self) -> None:
        changes: dict[str, Any] = {"autostart": True, "name": self.name()}
        if INetworks.implementedBy(type(self.connection)):  # type: ignore[attr-defined]
            changes["interfaces"] = (DomainInterface(MAC, self.factory.network),)
        spec, other = await self.defined(**changes), await self.defined()
        promise = "get_spec: the domain is described as it was defined"
        told = await self.tells(spec, promise)
        await self.tells(other, promise)
        await self.again("define_domain", told)
        await self.tells(spec, "get_spec: what it returns can be defined, with the same result")
        await self.ask("set_memory", spec.uuid, spec.max_memory)
        await self.ask("set_vcpus", spec.uuid, spec.max_vcpus)
        changed = replace(spec, memory=spec.max_memory, vcpus=spec.max_vcpus)
        await self.tells(changed, "get_spec: later changes are reported")
        await self.ask("start", spec.uuid)
        before = await self.own()
        await self.tells(changed, "get_spec: a running domain is described, too")
        self.assertEqual(await self.own(), before, "get_spec: it changes nothing")
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "get_spec", NOBODY)

    async def test_its_disks(self) -> None:
        if not IDisks.implementedBy(type(self.connection)):  # type: ignore[attr-defined]
            await self.refuses(NoSuchThing, "a path that no volume has", "volume_of", NO_PATH, "raw")
            return
        spec, other = await self.defined(), await self.volume()
        disks = []
        for number, format in enumerate(self.connection.formats):
            volume = await self.volume(format)
            disks.append(DomainDisk(volume.path, format, "vd" + "zyxwvu"[number]))
            await self.ask("attach_disk", spec.uuid, disks[-1])
            promise = "volume_of: the volume is found"
            self.assertEqual(await self.ask("volume_of", volume.path, format, promise=promise), volume, promise)
        told = await self.ask("get_spec", spec.uuid)
        by_target = sorted(disks, key=lambda disk: disk.target)
        added = sorted((disk for disk in told.disks if disk not in spec.disks), key=lambda disk: disk.target)
        self.assertEqual(added, by_target, "get_spec: its disks are reported")
        await self.ask("delete_volume", other.pool, other.name)
        await self.refuses(NoSuchThing, "a volume that was removed", "volume_of", other.path, other.format)
        await self.refuses(NoSuchThing, "a path that no volume has", "volume_of", NO_PATH, "raw")

    async def test_a_closed_connection(self) -> None:
        spec = await self.defined()
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "get_spec", spec.uuid)
        await self.raises(Unreachable, "a closed connection", "volume_of", NO_PATH, "raw")
