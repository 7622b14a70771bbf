"""Containers' weights and rates."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from fluidvm.driver import IShares, Shares, Unsupported
from fluidvm.drivers.openvz.node import Container, changed, verb
from fluidvm.drivers.openvz.settings import VzSettings

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
        return ("cpu_shares", *self._rates())

    @verb
    async def get_shares(self, uuid: str) -> Shares:
        return self._shares(await self._container(uuid))

    @verb
    async def set_shares(self, uuid: str, shares: Shares) -> None:
        if shares.network_mbps is not None:
            raise Unsupported(f"Container {uuid}: vzctl can't limit the rate of interfaces.")
        if not self._openvz and (shares.disk_iops, shares.disk_mbps) != (None, None):
            raise Unsupported(f"Container {uuid}: only an OpenVZ kernel can limit the rate of file systems.")

        async def put() -> None:
            await self._put_shares(await self._container(uuid), shares)

        await self._alone(uuid, put)

    async def _put_shares(self, there: Container, shares: Shares) -> None:
        """Give a container shares, as far as there is something to change. What it can't have is left out."""
        rates = {name: getattr(shares, name) for name in self._rates()}
        wanted = Shares(from_units(to_units(shares.cpu_shares)), **rates)
        before = self._shares(there)
        subject = f"shares of container {there.info.name}"
        if not self._openvz:
            await self._drop_rates(subject, there)
        if before == wanted:
            return
        await self._set(subject, there.ctid, _words(wanted, before), _words(before, wanted))
        changed(subject, wanted, self._shares(await self._container(there.identity.uuid)))

    def _rates(self) -> tuple[str, ...]:
        """The rates that the node's kernel can hold a file system to."""
        return ("disk_iops", "disk_mbps") if self._openvz else ()

    def _shares(self, there: Container) -> Shares:
        conf = there.identity.conf
        told = {"disk_iops": int(conf.get("IOPSLIMIT") or 0), "disk_mbps": int(conf.get("IOLIMIT") or 0) // MIB}
        rates = {name: told[name] or None for name in self._rates()}
        return Shares(from_units(int(conf.get("CPUUNITS") or UNITS)), **rates)


def _words(new: Shares, old: Shares) -> list[str]:
    words = []
    if new.cpu_shares != old.cpu_shares:
        words += ["--cpuunits", str(to_units(new.cpu_shares))]
    if new.disk_mbps != old.disk_mbps:
        words += ["--iolimit", f"{new.disk_mbps or 0}M"]
    if new.disk_iops != old.disk_iops:
        words += ["--iopslimit", str(new.disk_iops or 0)]
    return words
