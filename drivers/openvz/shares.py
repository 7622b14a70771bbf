"""CPU shares and rate limits of containers."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from fluidvm.driver import IShares, Shares, Unsupported
from fluidvm.drivers.openvz.node import Container, changed, verb
from fluidvm.drivers.openvz.settings import VzSettings

USUAL = Shares().cpu_shares
UNITS = 1000
"""The default of a container's C{cpuunits} (vzctl's man page)."""
LEAST, MOST = 8, 500000
MIB = 2**20


def to_units(cpu_shares: int) -> int:
    """Convert CPU shares to vzctl's units."""
    return min(MOST, max(LEAST, round(cpu_shares * UNITS / USUAL)))


def from_units(units: int) -> int:
    """Convert vzctl's units back to CPU shares, as exactly as its scale allows."""
    return round(units * USUAL / UNITS)


@implementer(IShares)
class VzShares(VzSettings):
    """Uses C{vzctl set}. Disk rates apply to a container's file system, its only disk. Interfaces have no rate limits."""

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
        """Change a container's shares where they differ. What it doesn't support is left out."""
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
        """The rate limits for file systems that the node's kernel supports."""
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
