"""The contract of snapshots finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import AlreadyThere, DomainState, Snapshot
from fluidvm.drivers.simulator.driver import SimulatedConnection
from fluidvm.drivers.simulator.snapshots import Snapshots
from fluidvm.drivers.simulator.volume_snapshots import VolumeSnapshots
from tests.unit.conformance.test_conformance import broken_promises


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
    """A repetition replaces the snapshot."""

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


class KeepsNoVolume(SimulatedConnection):
    def create_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        return self.list_volume_snapshots(pool, name).addCallback(lambda _: None)


class KeepsVolumesAnew(SimulatedConnection):
    def create_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        again = self.delete_volume_snapshot(pool, name, format, snapshot)
        return again.addCallback(lambda _: SimulatedConnection.create_volume_snapshot(self, pool, name, format, snapshot))


class NewestVolumesFirst(SimulatedConnection):
    def list_volume_snapshots(self, pool: str, name: str) -> Deferred[Sequence[Snapshot]]:
        return super().list_volume_snapshots(pool, name).addCallback(lambda told: told[::-1])


class KeepsInOtherVolumes(SimulatedConnection):
    """Like a driver that creates a volume for each snapshot."""

    def create_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        done = super().create_volume_snapshot(pool, name, format, snapshot)
        return done.addCallback(lambda _: self.simulated.create_volume(pool, f"{name}.{snapshot}", 1, "raw") and None)  # type: ignore[call-overload]


class KeepsTheOtherVolumes(SimulatedConnection):
    def create_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        def all_of_them() -> None:
            kept = VolumeSnapshots(self.simulated)
            kept.create(pool, name, format, snapshot)
            for volume in self.simulated.volumes(pool):
                kept.create(pool, volume.name, volume.format, snapshot)

        return self._do("create_volume_snapshot", all_of_them)


class UsesUpWhatTheVolumeRevertsTo(SimulatedConnection):
    def revert_volume(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        done = super().revert_volume(pool, name, format, snapshot)
        return done.addCallback(lambda _: VolumeSnapshots(self.simulated).delete(pool, name, format, snapshot))


class RevertsBeneathRunningDomains(SimulatedConnection):
    def revert_volume(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        return self.list_volume_snapshots(pool, name).addCallback(lambda _: None)


class RemembersRemovedVolumes(SimulatedConnection):
    def delete_volume(self, pool: str, name: str) -> Deferred[None]:
        key = f"volume {name}"
        kept = self.simulated.kept(key)
        return super().delete_volume(pool, name).addCallback(lambda _: self.simulated.keep(key, kept))


class MixesThemUp(SimulatedConnection):
    """Like a driver whose two kinds of snapshots are in one file, under the same name."""

    def delete_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        def both(_: None) -> None:
            for domain in self.simulated.domains():
                if any(disk.path.endswith(f"/{name}") for disk in domain.disks):
                    Snapshots(self.simulated).delete(domain.uuid, snapshot)

        return super().delete_volume_snapshot(pool, name, format, snapshot).addCallback(both)


FAULTS: dict[type[SimulatedConnection], str] = {
    KeepsNothing: "create_snapshot: list_snapshots lists it",
    NewestFirst: "list_snapshots: the oldest comes first",
    RefusesTheSecond: "create_snapshot: a repetition succeeds",
    MakesItAnew: "create_snapshot: a repetition changes nothing",
    NeverKeepsMemory: "create_snapshot: the snapshot of a running domain has its memory",
    StopsWhatItKeeps: "create_snapshot: the domain continues as before",
    AlwaysRuns: "revert_snapshot: a domain without memory is stopped",
    RevertsDefinitions: "revert_snapshot: its definition stays the same; vcpus",
    UsesUpWhatItRevertsTo: "revert_snapshot: a repetition succeeds",
    RevertsToAnything: "revert_snapshot: NoSuchThing is raised for a snapshot that doesn't exist",
    RevertsThePaused: "revert_snapshot: WrongState is raised for a paused domain",
    ForgetsAll: "delete_snapshot: list_snapshots doesn't list it",
    KeepsWhatIsDeleted: "delete_snapshot: list_snapshots doesn't list it",
    KeepsTheOthersToo: "create_snapshot: another domain isn't affected",
    RemembersTheForgotten: "undefine_domain: a domain's snapshots are removed with it",
    KeepsNoVolume: "create_volume_snapshot: list_volume_snapshots lists it",
    KeepsVolumesAnew: "create_volume_snapshot: a repetition changes nothing",
    NewestVolumesFirst: "list_volume_snapshots: the oldest comes first",
    KeepsInOtherVolumes: "create_volume_snapshot: no other domain or volume is listed",
    KeepsTheOtherVolumes: "create_volume_snapshot: another volume isn't affected",
    UsesUpWhatTheVolumeRevertsTo: "revert_volume: it can be reverted to an older snapshot",
    RevertsBeneathRunningDomains: "revert_volume: WrongState is raised for a paused domain's volume",
    RemembersRemovedVolumes: "delete_volume: a volume's snapshots are removed with it",
    MixesThemUp: "delete_volume_snapshot: the domain's own isn't affected",
}


class FaultyDriverTests(SynchronousTestCase):
    """Each breaks one promise; the contract names it."""

    def test_found(self) -> None:
        for connection, promise in FAULTS.items():
            _, broken = broken_promises(connection, promise)
            self.assertTrue(any(promise in words for words in broken), f"{connection.__name__}: {promise!r} in {broken}")
