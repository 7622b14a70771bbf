"""Statistics of the simulator's host and domains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import DomainState, DomainStats, HostStats, IStats
from fluidvm.drivers.simulator.host import ON, SimulatedHost

SHARE = 0.1
"""The load of each virtual CPU, as a fraction of a CPU."""


@implementer(IStats)
class SimulatedStats:
    """All guests use the same from their start on: a tenth of each virtual CPU, and all of their memory."""

    simulated: SimulatedHost
    seconds: Callable[[], float]
    _do: Callable[..., Deferred[Any]]

    def domain_stats(self, uuid: str) -> Deferred[DomainStats]:
        """Report what a domain has used."""

        def tell() -> DomainStats:
            domain = self.simulated.domain(uuid)
            if domain.state not in ON:
                return DomainStats()
            started = self.simulated.notes(uuid).get("started", self.seconds())
            cpu_time = SHARE * domain.vcpus * max(0.0, self.seconds() - started)
            return DomainStats(cpu_time, domain.memory, 0, 0, 0, 0)

        return self._do("domain_stats", tell)

    def host_stats(self) -> Deferred[HostStats]:
        """Report the host's load."""

        def tell() -> HostStats:
            info = self.simulated.info()
            running = [domain for domain in self.simulated.domains() if domain.state is DomainState.RUNNING]
            cpu = 100.0 * SHARE * sum(domain.vcpus for domain in running) / info.vcpus
            return HostStats(min(100.0, cpu), min(info.memory, sum(domain.memory for domain in running)))

        return self._do("host_stats", tell)
