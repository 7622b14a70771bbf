"""Statistics of hosts and domains, from libvirt."""

from __future__ import annotations

from typing import Any

import libvirt
from zope.interface import implementer

from fluidvm.driver import DomainStats, HostStats, IStats
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domains import LibvirtDomains

_WANTED = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)


@implementer(IStats)
class LibvirtStats(LibvirtDomains):
    """A host that reports statistics. The fields are those of C{virConnectGetAllDomainStats}."""

    _cpu_before: tuple[int, int] = (0, 0)

    @verb
    async def domain_stats(self, uuid: str) -> DomainStats:
        def ask() -> DomainStats:
            domain = self._do_find(uuid)
            if not domain.isActive():
                return DomainStats()
            ((_, told),) = self._connection.domainListGetStats([domain], _WANTED)
            memory = told.get("balloon.rss")
            return DomainStats(
                cpu_time=None if "cpu.time" not in told else told["cpu.time"] / 1e9,
                memory=None if memory is None else memory // 1024,
                disk_read=_sum(told, "block", "rd.bytes"),
                disk_written=_sum(told, "block", "wr.bytes"),
                network_received=_sum(told, "net", "rx.bytes"),
                network_sent=_sum(told, "net", "tx.bytes"),
            )

        return await self._call(f"statistics of domain {uuid}", ask)

    @verb
    async def host_stats(self) -> HostStats:
        def ask() -> HostStats:
            cpu = self._connection.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS)
            total, idle = sum(cpu.values()), cpu["idle"] + cpu.get("iowait", 0)
            before, self._cpu_before = self._cpu_before, (total, idle)
            passed = total - before[0]
            busy = 100.0 * (passed - (idle - before[1])) / passed if passed > 0 else 0.0
            memory = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            free = memory["free"] + memory.get("buffers", 0) + memory.get("cached", 0)
            return HostStats(cpu=min(100.0, max(0.0, busy)), memory_used=max(0, memory["total"] - free) // 1024)

        return await self._call("the host's statistics", ask)


def _sum(told: dict[str, Any], kind: str, field: str) -> int:
    """The sum over all of a domain's disks or interfaces."""
    return sum(told.get(f"{kind}.{number}.{field}", 0) for number in range(told.get(f"{kind}.count", 0)))
