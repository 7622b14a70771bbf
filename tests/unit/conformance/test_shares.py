"""The contract of shares finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DomainSpec, Shares
from fluidvm.drivers.simulator.driver import SimulatedConnection
from tests.unit.conformance.test_conformance import broken_promises


class ForgetsShares(SimulatedConnection):
    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        return super().define_domain(replace(spec, shares=Shares()))


class SharesWithAll(SimulatedConnection):
    def set_shares(self, uuid: str, shares: Shares) -> Deferred[None]:
        def put() -> None:
            self.simulated.domain(uuid)
            for domain in self.simulated.domains():
                self.simulated.put_shares(domain.uuid, shares)

        return self._do("set_shares", put)


class SharesForNow(SimulatedConnection):
    def stop(self, uuid: str) -> Deferred[None]:
        return super().stop(uuid).addCallback(lambda _: self.simulated.put_shares(uuid, Shares()))


class SharesAtTheNextStart(SimulatedConnection):
    """Reports success, but applies the change only when the domain is stopped."""

    async def _later(self, uuid: str, shares: Shares) -> None:
        if (await self.get_domain(uuid)).state.value != "running":
            await SimulatedConnection.set_shares(self, uuid, shares)

    def set_shares(self, uuid: str, shares: Shares) -> Deferred[None]:
        return Deferred.fromCoroutine(self._later(uuid, shares))


class SlowsTheFirstDiskOnly(SimulatedConnection):
    def set_shares(self, uuid: str, shares: Shares) -> Deferred[None]:
        def put() -> None:
            domain = self.simulated.domain(uuid)
            self.simulated.add(replace(domain, disks=domain.disks[:1]))
            self.simulated.put_shares(uuid, shares)
            self.simulated.add(domain)

        return self._do("set_shares", put)


class NeverTakesAway(SimulatedConnection):
    def set_shares(self, uuid: str, shares: Shares) -> Deferred[None]:
        if shares == Shares():
            return self.get_domain(uuid).addCallback(lambda _: None)
        return super().set_shares(uuid, shares)


class CanOtherThings(SimulatedConnection):
    def shareable(self) -> Deferred[Sequence[str]]:
        return succeed(("disk_iops", "bogomips"))


class TakesWhatItCant(SimulatedConnection):
    def shareable(self) -> Deferred[Sequence[str]]:
        return super().shareable().addCallback(lambda told: tuple(name for name in told if name != "network_mbps"))


class TakesAnyDomain(SimulatedConnection):
    def get_shares(self, uuid: str) -> Deferred[Any]:
        return self._do("get_shares", Shares)


FAULTS = {
    ForgetsShares: "define_domain: get_shares reports what was requested",
    SharesWithAll: "set_shares: another domain isn't affected",
    SharesForNow: "set_shares: they are still in effect after a stop",
    SharesAtTheNextStart: "set_shares: get_shares reports what was requested",
    SlowsTheFirstDiskOnly: "set_shares: it applies to every current disk of the domain",
    NeverTakesAway: "set_shares: removed ones are no longer reported",
    CanOtherThings: "shareable: it returns names of fields of Shares",
    TakesWhatItCant: "set_shares: Unsupported is raised for network_mbps, which isn't shareable",
    TakesAnyDomain: "get_shares: NoSuchThing is raised for a domain that doesn't exist",
}


class FaultyDriverTests(SynchronousTestCase):
    """Each breaks one promise; the contract names it."""

    def test_found(self) -> None:
        for connection, promise in FAULTS.items():
            _, broken = broken_promises(connection, promise)
            self.assertTrue(any(promise in words for words in broken), f"{connection.__name__}: {promise!r} in {broken}")
