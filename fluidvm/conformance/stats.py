"""Tests of statistics."""

from __future__ import annotations

from fluidvm.conformance.case import ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import DomainStats, NoSuchThing, Unreachable

COUNTERS = ("cpu_time", "disk_read", "disk_written", "network_received", "network_sent")


class StatsContract(ContractCase):
    """Tests of L{IStats}."""

    async def stats(self, uuid: str, promise: str) -> DomainStats:
        """Get a domain's statistics, and check that they are plausible."""
        told: DomainStats = await self.ask("domain_stats", uuid, promise=promise)
        self.assertIsInstance(told, DomainStats, promise)
        for name in (*COUNTERS, "memory"):
            value = getattr(told, name)
            self.assertTrue(value is None or value >= 0, f"domain_stats: {name} isn't negative")
        return told

    async def test_a_domain(self) -> None:
        spec = await self.defined()
        promise = "domain_stats: nothing is reported for a domain that isn't running"
        self.assertEqual(await self.stats(spec.uuid, promise), DomainStats(), promise)
        await self.ask("start", spec.uuid)
        await self.factory.booted(self.connection, spec.uuid)
        before = await self.stats(spec.uuid, "domain_stats: the usage of a running domain is reported")
        used = [value for value in (before.cpu_time, before.memory) if value]
        self.assertTrue(used, "domain_stats: a domain that has booted has used CPU or memory")
        await self.factory.pass_time(1.0)
        promise = "domain_stats: usage doesn't decrease"
        after = await self.stats(spec.uuid, promise)
        for name in COUNTERS:
            self.assertGreaterEqual(getattr(after, name) or 0, getattr(before, name) or 0, promise)
        await self.ask("stop", spec.uuid)
        promise = "domain_stats: nothing is reported for a domain that was stopped"
        self.assertEqual(await self.stats(spec.uuid, promise), DomainStats(), promise)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "domain_stats", NOBODY)

    async def test_the_host(self) -> None:
        info = await self.ask("host_info")
        for _ in range(2):
            told = await self.ask("host_stats", promise="host_stats: the load of the host is reported")
            self.assertTrue(0.0 <= told.cpu <= 100.0, "host_stats: cpu is a percentage")
            self.assertTrue(0 <= told.memory_used <= info.memory, "host_stats: the memory used isn't more than the host's")

    async def test_a_closed_connection(self) -> None:
        spec = await self.defined()
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "domain_stats", spec.uuid)
        await self.raises(Unreachable, "a closed connection", "host_stats")
