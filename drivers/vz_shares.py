"""Containers' weights and rates."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from fluidvm.driver import IShares, Shares, Unsupported

from .vz_node import Container, changed, verb
from .vz_settings import VzSettings

USUAL = Shares().cpu_shares
UNITS = 1000
"""What a container's C{cpuunits} are where nobody says otherwise (vzctl's man page)."""
LEAST, MOST = 8, 500000
MIB = 2**20


def to_units(cpu_shares: int) -> int:
    """A weight as vzctl counts it."""
    return min(MOST, max(LEAST, round(cpu_shares * UNITS / USUAL)))


def from_units(units: int) -> int:
    """The weight that L{to_units} was given, as far as vzctl's scale tells it."""
    return round(units * USUAL / UNITS)


@implementer(IShares)
class VzShares(VzSettings):
    """By C{vzctl set}. A container's rates are its file system's: it has no other disk. Its interfaces have none."""

    @verb
    async def shareable(self) -> Sequence[str]:
        await self._containers()
        return ("cpu_shares", "disk_iops", "disk_mbps")

    @verb
    async def get_shares(self, uuid: str) -> Shares:
        return _shares(await self._container(uuid))

    @verb
    async def set_shares(self, uuid: str, shares: Shares) -> None:
        if shares.network_mbps is not None:
            raise Unsupported(f"Container {uuid}: vzctl holds interfaces to no rate.")

        async def put() -> None:
            await self._put_shares(await self._container(uuid), shares)

        await self._alone(uuid, put)

    async def _put_shares(self, there: Container, shares: Shares) -> None:
        """Give a container shares, as far as there is something to change. What it can't have is left out."""
        wanted = Shares(from_units(to_units(shares.cpu_shares)), shares.disk_iops, shares.disk_mbps)
        before = _shares(there)
        if before == wanted:
            return
        subject = f"shares of container {there.info.name}"
        await self._set(subject, there.ctid, _words(wanted, before), _words(before, wanted))
        changed(subject, wanted, _shares(await self._container(there.identity.uuid)))


def _shares(there: Container) -> Shares:
    conf = there.identity.conf
    iops, rate = int(conf.get("IOPSLIMIT") or 0), int(conf.get("IOLIMIT") or 0)
    return Shares(from_units(int(conf.get("CPUUNITS") or UNITS)), iops or None, rate // MIB or None)


def _words(new: Shares, old: Shares) -> list[str]:
    words = []
    if new.cpu_shares != old.cpu_shares:
        words += ["--cpuunits", str(to_units(new.cpu_shares))]
    if new.disk_mbps != old.disk_mbps:
        words += ["--iolimit", f"{new.disk_mbps or 0}M"]
    if new.disk_iops != old.disk_iops:
        words += ["--iopslimit", str(new.disk_iops or 0)]
    return words
