"""Statistics of a Xen host and its domains: libvirt's Xen driver lacks the calls that return all values at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from xml.etree import ElementTree

import libvirt
from zope.interface import implementer

from fluidvm.driver import DomainStats, HostStats, IStats
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domains import LibvirtDomains

_CANT_TELL = (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
"""The errors of libvirt for disks that QEMU serves."""


@implementer(IStats)
class XenStats(LibvirtDomains):
    """A host that reports statistics, as the sum of the CPU time of its domains, including dom0."""

    _asked: tuple[float, dict[int, int]] = (0.0, {})
    """The time of the last query, in seconds, and the CPU time of each domain then, in nanoseconds."""

    @verb
    async def prepare(self) -> None:
        await super().prepare()
        await self._call("the host's statistics", self._do_ask)

    def _do_ask(self) -> float:
        """Return the CPU time that was used since the last call, in seconds."""
        before = self._asked[1]
        active = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        now = {domain.ID(): domain.info()[4] for domain in active}
        self._asked = self._seconds(), now
        return float(sum(max(0, used - before.get(number, 0)) for number, used in now.items())) / 1e9

    @verb
    async def host_stats(self) -> HostStats:
        def ask() -> HostStats:
            since = self._asked[0]
            used = self._do_ask()
            there = (self._asked[0] - since) * self._connection.getInfo()[2]
            cpu = 100.0 * used / there if there > 0 else 0.0
            free = self._connection.getFreeMemory() // 2**20
            return HostStats(cpu=min(100.0, cpu), memory_used=max(0, self._do_memory() - free))

        return await self._call("the host's statistics", ask)

    @verb
    async def domain_stats(self, uuid: str) -> DomainStats:
        def ask() -> DomainStats:
            domain = self._do_find(uuid)
            if not domain.isActive():
                return DomainStats()
            devices = ElementTree.fromstring(domain.XMLDesc(0))  # noqa: S314 - libvirtd is trusted: it is root on that host
            disks = _sums(domain.blockStats, devices.iterfind("devices/disk[@device='disk']/target"), (1, 3))
            networks = _sums(domain.interfaceStats, devices.iterfind("devices/interface/target"), (0, 4))
            _, _, memory, _, cpu_time = domain.info()
            return DomainStats(cpu_time / 1e9, memory // 1024, *disks, *networks)

        return await self._call(f"statistics of domain {uuid}", ask)


def _sums(
    ask: Callable[[str], Any], targets: Iterable[ElementTree.Element], fields: tuple[int, int]
) -> tuple[int | None, int | None]:
    """The sums of two numbers over all of a domain's devices; C{None} if the host can't report them for one."""
    sums = [0, 0]
    for target in targets:
        try:
            told = ask(target.get("dev", ""))
        except libvirt.libvirtError as error:
            if error.get_error_code() in _CANT_TELL:
                return None, None
            raise
        for place, field in enumerate(fields):
            sums[place] += told[field]
    return sums[0], sums[1]
