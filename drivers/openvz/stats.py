"""Statistics of containers and their node."""

from __future__ import annotations

import re

from zope.interface import implementer

from fluidvm.driver import DomainState, DomainStats, DriverError, HostStats, IStats
from fluidvm.drivers.openvz.dialect import MIB
from fluidvm.drivers.openvz.kernel import VzKernel
from fluidvm.drivers.openvz.node import verb


def parse_cpu(stat: str) -> tuple[int, int]:
    """Read C{/proc/stat}: the busy ticks and all ticks, of all CPUs."""
    found = re.search(r"^cpu +(\d+(?: \d+)*)", stat, re.MULTILINE)
    if found is None:
        raise DriverError("The node doesn't report its CPU usage.")
    ticks = [int(word) for word in found[1].split()][:8]  # ticks of guests are included in those of users
    return sum(ticks) - ticks[3] - (ticks[4] if len(ticks) > 4 else 0), sum(ticks)


def parse_available(meminfo: str) -> int:
    """Read C{/proc/meminfo}: the available memory in MiB; old kernels report only parts of it."""
    told = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    parts = sum(told.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    return told.get("MemAvailable", parts) // 1024


@implementer(IStats)
class VzStats(VzKernel):
    """Uses vzlist, which reports only memory, and nothing on other kernels; control groups there; and C{/proc}."""

    _cpu_before = (0, 0)

    @verb
    async def domain_stats(self, uuid: str) -> DomainStats:
        there = await self._container(uuid)
        if there.state not in (DomainState.RUNNING, DomainState.PAUSED):
            return DomainStats()
        if self._openvz:
            return DomainStats(memory=there.listed.used_memory)
        used = await self._memory_group(there, "usage_in_bytes")
        return DomainStats(memory=None if used is None else -(-used // MIB))

    @verb
    async def host_stats(self) -> HostStats:
        cpu = parse_cpu((await self._run(["cat", "/proc/stat"])).stdout)
        available = parse_available((await self._run(["cat", "/proc/meminfo"])).stdout)
        busy, ticks = (now - before for now, before in zip(cpu, self._cpu_before, strict=True))
        self._cpu_before = cpu
        share = 100.0 * busy / ticks if ticks > 0 else 0.0
        return HostStats(min(100.0, max(0.0, share)), max(0, self._memory - available))
