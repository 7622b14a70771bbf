"""The contract of snapshots finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import AlreadyThere, DomainState, Snapshot
from fluidvm.drivers.simulator import SimulatedConnection
from fluidvm.drivers.simulator_snapshots import Snapshots

from .test_conformance import broken_promises


class KeepsNothing(SimulatedConnection):
    def create_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        return self.get_domain(uuid).addCallback(lambda _: None)


class NewestFirst(SimulatedConnection):
    def list_snapshots(self, uuid: str) -> Deferred[Sequence[Snapshot]]:
        return super().list_snapshots(uuid).addCallback(lambda told: told[::-1])


class RefusesTheSecond(SimulatedConnection):
    def create_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        if Snapshots(self.simulated).find(uuid, name) is not None:
            return fail(AlreadyThere(f"There is a snapshot {name}."))
        return super().create_snapshot(uuid, name)


class MakesItAnew(SimulatedConnection):
    """A repetition replaces what was kept."""

    def create_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        again = self.delete_snapshot(uuid, name)
        return again.addCallback(lambda _: SimulatedConnection.create_snapshot(self, uuid, name))


class NeverKeepsMemory(SimulatedConnection):
    def list_snapshots(self, uuid: str) -> Deferred[Sequence[Snapshot]]:
        return super().list_snapshots(uuid).addCallback(lambda told: [replace(one, running=False) for one in told])


class StopsWhatItKeeps(SimulatedConnection):
    def create_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        return super().create_snapshot(uuid, name).addCallback(lambda _: self.simulated.stop(uuid))


class AlwaysRuns(SimulatedConnection):
    def revert_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        done = super().revert_snapshot(uuid, name)
        return done.addCallback(lambda _: self.simulated.put_state(uuid, DomainState.RUNNING))


class RevertsDefinitions(SimulatedConnection):
    """As libvirt does by itself."""

    def revert_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        def back() -> None:
            snapshots = Snapshots(self.simulated)
            kept, domain = snapshots.find(uuid, name), self.simulated.domain(uuid)
            if kept is not None and domain.state in (DomainState.RUNNING, DomainState.STOPPED):
                vcpus, max_vcpus, memory, max_memory = kept.amounts
                self.simulated.add(
                    replace(domain, vcpus=vcpus, max_vcpus=max_vcpus, memory=memory, max_memory=max_memory, disks=kept.disks)
                )
            snapshots.revert(uuid, name)

        return self._do("revert_snapshot", back)


class UsesUpWhatItRevertsTo(SimulatedConnection):
    def revert_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        return super().revert_snapshot(uuid, name).addCallback(lambda _: Snapshots(self.simulated).delete(uuid, name))


class RevertsToAnything(SimulatedConnection):
    def revert_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        if Snapshots(self.simulated).find(uuid, name) is None:
            return self.get_domain(uuid).addCallback(lambda _: None)
        return super().revert_snapshot(uuid, name)


class RevertsThePaused(SimulatedConnection):
    def revert_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        if self.simulated.domain(uuid).state is DomainState.PAUSED:
            self.simulated.resume(uuid)
        return super().revert_snapshot(uuid, name)


class ForgetsAll(SimulatedConnection):
    def delete_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        return super().delete_snapshot(uuid, name).addCallback(lambda _: self.simulated.keep(uuid, []))


class KeepsWhatIsDeleted(SimulatedConnection):
    def delete_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        return self.get_domain(uuid).addCallback(lambda _: None)


class KeepsTheOthersToo(SimulatedConnection):
    def create_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        def all_of_them() -> None:
            self.simulated.domain(uuid)
            for domain in self.simulated.domains():
                Snapshots(self.simulated).create(domain.uuid, name)

        return self._do("create_snapshot", all_of_them)


class RemembersTheForgotten(SimulatedConnection):
    """A domain that is defined again has the snapshots that it had."""

    def undefine_domain(self, uuid: str) -> Deferred[None]:
        kept = self.simulated.kept(uuid)
        return super().undefine_domain(uuid).addCallback(lambda _: self.simulated.keep(uuid, kept))


FAULTS: dict[type[SimulatedConnection], str] = {
    KeepsNothing: "create_snapshot: list_snapshots tells it",
    NewestFirst: "list_snapshots: the oldest comes first",
    RefusesTheSecond: "create_snapshot: a repetition succeeds",
    MakesItAnew: "create_snapshot: a repetition changes nothing",
    NeverKeepsMemory: "create_snapshot: a running domain's has its memory",
    StopsWhatItKeeps: "create_snapshot: the domain goes on as it was",
    AlwaysRuns: "revert_snapshot: a domain without memory is stopped",
    RevertsDefinitions: "revert_snapshot: its definition stays what it is; vcpus",
    UsesUpWhatItRevertsTo: "revert_snapshot: a repetition succeeds",
    RevertsToAnything: "revert_snapshot: NoSuchThing is raised for a snapshot that isn't there",
    RevertsThePaused: "revert_snapshot: WrongState is raised for a paused domain",
    ForgetsAll: "delete_snapshot: list_snapshots doesn't tell it",
    KeepsWhatIsDeleted: "delete_snapshot: list_snapshots doesn't tell it",
    KeepsTheOthersToo: "create_snapshot: another domain isn't disturbed",
    RemembersTheForgotten: "undefine_domain: a domain's snapshots go with it",
}


class FaultyDriverTests(SynchronousTestCase):
    """Each breaks one promise; the contract names it."""

    def test_found(self) -> None:
        for connection, promise in FAULTS.items():
            _, broken = broken_promises(connection)
            self.assertTrue(any(promise in words for words in broken), f"{connection.__name__}: {promise!r} in {broken}")
