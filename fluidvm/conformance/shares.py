"""Tests of shares and rates."""

from __future__ import annotations

import secrets
from typing import Any

from fluidvm.conformance.case import ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import (
    DomainDisk,
    DomainInterface,
    DomainSpec,
    IDisks,
    INetworks,
    NoSuchThing,
    Shares,
    Unreachable,
    Unsupported,
)

SOME = {"cpu_shares": 512, "disk_iops": 200, "disk_mbps": 20, "network_mbps": 40}
OTHERS = {"cpu_shares": 2048, "disk_iops": 300, "disk_mbps": 10, "network_mbps": 80}


class SharesContract(ContractCase):
    """Tests of L{IShares}."""

    async def can(self, values: dict[str, int]) -> Shares:
        """Those of the values that the host supports."""
        told = await self.ask("shareable", promise="shareable: it lists what the host supports")
        unknown = sorted(set(told) - set(SOME))
        self.assertEqual(unknown, [], "shareable: it returns names of fields of Shares")
        return Shares(**{name: value for name, value in values.items() if name in told})

    async def disk(self, target: str) -> DomainDisk:
        """Create a volume, and return it as a disk."""
        name, format = self.name(), self.connection.formats[0]
        self.volumes.append(name)
        volume = await self.ask("create_volume", self.factory.pool, name, 16, format, lambda percentage: None)
        return DomainDisk(volume.path, volume.format, target)

    async def equipped(self, **changes: Any) -> DomainSpec:
        """Describe a domain with a disk and an interface, if the driver supports them."""
        if IDisks.providedBy(self.connection):  # type: ignore[attr-defined]
            changes["disks"] = (*self.factory.spec(self.name()).disks, await self.disk("vdy"))
        if INetworks.providedBy(self.connection):  # type: ignore[attr-defined]
            mac = "52:54:00:" + secrets.token_bytes(3).hex(":")
            changes["interfaces"] = (DomainInterface(mac, self.factory.network),)
        return await self.defined(**changes)

    async def has(self, spec: DomainSpec, shares: Shares, promise: str) -> None:
        """Check a domain's shares."""
        self.assertEqual(await self.ask("get_shares", spec.uuid, promise=promise), shares, promise)

    async def test_a_domain_is_defined_with_them(self) -> None:
        some = await self.can(SOME)
        spec = await self.equipped(shares=some)
        await self.has(spec, some, "define_domain: get_shares reports what was requested")
        await self.ask("start", spec.uuid)
        await self.has(spec, some, "define_domain: the shares are in effect when it runs")
        another = await self.equipped()
        await self.has(another, Shares(), "define_domain: a domain without shares has the default ones")

    async def test_they_are_changed(self) -> None:
        some, others = await self.can(SOME), await self.can(OTHERS)
        another = await self.equipped(shares=some)
        spec = await self.equipped()
        promise = "set_shares: get_shares reports what was requested"
        await self.ask("set_shares", spec.uuid, some, promise="set_shares: a stopped domain gets them")
        await self.has(spec, some, promise)
        await self.again("set_shares", spec.uuid, some)
        await self.ask("start", spec.uuid)
        await self.has(spec, some, "set_shares: they are still in effect after a start")
        await self.ask("set_shares", spec.uuid, others, promise="set_shares: a running domain gets them")
        await self.has(spec, others, promise)
        await self.again("set_shares", spec.uuid, others)
        await self.has(spec, others, "set_shares: a repetition changes nothing")
        await self.ask("stop", spec.uuid)
        await self.has(spec, others, "set_shares: they are still in effect after a stop")
        await self.has(another, some, "set_shares: another domain isn't affected")
        await self.ask("set_shares", spec.uuid, Shares(), promise="set_shares: they are removed")
        await self.has(spec, Shares(), "set_shares: removed ones are no longer reported")

    async def test_what_was_attached_later_is_held_to_them(self) -> None:
        if not IDisks.providedBy(self.connection):  # type: ignore[attr-defined]
            return
        some = await self.can(SOME)
        spec = await self.equipped(shares=some)
        await self.ask("start", spec.uuid)
        await self.ask("attach_disk", spec.uuid, await self.disk("vdz"))
        await self.ask("set_shares", spec.uuid, some)
        await self.has(spec, some, "set_shares: it applies to every current disk of the domain")

    async def test_refusals(self) -> None:
        some = await self.can(SOME)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "set_shares", NOBODY, some)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "get_shares", NOBODY)
        spec = await self.equipped(shares=some)
        told = await self.ask("shareable")
        for name, value in OTHERS.items():
            if name not in told:
                await self.refuses(
                    Unsupported, f"{name}, which isn't shareable", "set_shares", spec.uuid, Shares(**{name: value})
                )
        await self.has(spec, some, "set_shares: after failure they are as before")

    async def test_a_closed_connection(self) -> None:
        spec = await self.defined()
        await self.ask("close")
        for verb, arguments in (("shareable", ()), ("set_shares", (spec.uuid, Shares())), ("get_shares", (spec.uuid,))):
            await self.raises(Unreachable, "a closed connection", verb, *arguments)
