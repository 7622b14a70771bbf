"""Snapshots of the simulator's domains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import (
    DomainDisk,
    DomainInfo,
    DomainInterface,
    DomainState,
    ISnapshots,
    NoSuchThing,
    Snapshot,
    Unsupported,
    WrongState,
)
from fluidvm.drivers.simulator.host import OFF, SimulatedHost

AMOUNTS = ("vcpus", "max_vcpus", "memory", "max_memory")


@dataclass(frozen=True)
class SnapshotRecord:
    """A snapshot, and the state of its domain at that time. C{amounts}: in the order of L{AMOUNTS}."""

    snapshot: Snapshot
    disks: tuple[DomainDisk, ...]
    interfaces: tuple[DomainInterface, ...]
    amounts: tuple[int, ...]

    @classmethod
    def of(cls, domain: DomainInfo, snapshot: Snapshot) -> SnapshotRecord:
        """Record the current state of a domain."""
        return cls(snapshot, domain.disks, domain.interfaces, tuple(getattr(domain, name) for name in AMOUNTS))

    @classmethod
    def read(cls, value: dict[str, Any]) -> SnapshotRecord:
        """Read a record from the journal."""
        return cls(
            Snapshot(**value["snapshot"]),
            tuple(DomainDisk(**disk) for disk in value["disks"]),
            tuple(DomainInterface(**interface) for interface in value["interfaces"]),
            tuple(value["amounts"]),
        )

    def check(self, domain: DomainInfo) -> None:
        """Check that a domain can be reverted. @raise WrongState: something that matters has changed."""
        now = SnapshotRecord.of(domain, self.snapshot)
        name = self.snapshot.name
        if set(now.disks) != set(self.disks):
            raise WrongState(f"Domain {domain.name} had different disks when snapshot {name} was created.")
        if not self.snapshot.running:
            return
        for what, then, amount in zip(AMOUNTS, self.amounts, now.amounts, strict=True):
            if then != amount:
                raise WrongState(f"Domain {domain.name} had {what} {then} when snapshot {name} was created, now {amount}.")
        if set(now.interfaces) != set(self.interfaces):
            raise WrongState(f"Domain {domain.name} had different interfaces when snapshot {name} was created.")


class Snapshots:
    """A host's snapshots, and the rules for them."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    def of(self, uuid: str) -> list[SnapshotRecord]:
        """A domain's snapshots, oldest first."""
        return [SnapshotRecord.read(value) for value in self._host.kept(self._host.domain(uuid).uuid)]

    def put(self, uuid: str, kept: list[SnapshotRecord]) -> None:
        """Store a domain's snapshots."""
        self._host.keep(uuid, [asdict(one) for one in kept])

    def find(self, uuid: str, name: str) -> SnapshotRecord | None:
        """A domain's snapshot with a name."""
        return next((one for one in self.of(uuid) if one.snapshot.name == name), None)

    def create(self, uuid: str, name: str) -> None:
        """Create a snapshot of a domain."""
        domain = self._host.domain(uuid)
        if self.find(uuid, name) is not None:
            return
        running = domain.state is DomainState.RUNNING
        if not running and domain.state not in OFF:
            raise WrongState(
                f"Domain {domain.name} is {domain.state}: create snapshots only while it is running or stopped."
            )
        for disk in domain.disks:
            if disk.format != "qcow2":
                raise Unsupported(
                    f"Domain {domain.name}: its disk {disk.target} has format {disk.format}, which can't have snapshots."
                )
        self.put(uuid, [*self.of(uuid), SnapshotRecord.of(domain, Snapshot(name, time.time(), running))])

    def revert(self, uuid: str, name: str) -> None:
        """Revert a domain to a snapshot."""
        domain = self._host.domain(uuid)
        kept = self.find(uuid, name)
        if kept is None:
            raise NoSuchThing(f"Domain {domain.name} has no snapshot {name}.")
        if domain.state is not DomainState.RUNNING and domain.state not in OFF:
            raise WrongState(
                f"Domain {domain.name} is {domain.state}: it can be reverted only while it is running or stopped."
            )
        kept.check(domain)
        self._host.put_state(uuid, DomainState.RUNNING if kept.snapshot.running else DomainState.STOPPED)

    def delete(self, uuid: str, name: str) -> None:
        """Delete a snapshot."""
        if self.find(uuid, name) is not None:
            self.put(uuid, [one for one in self.of(uuid) if one.snapshot.name != name])


@implementer(ISnapshots)
class SimulatedSnapshots:
    """The verbs of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def list_snapshots(self, uuid: str) -> Deferred[Sequence[Snapshot]]:
        """List a domain's snapshots."""
        return self._do("list_snapshots", lambda: [one.snapshot for one in Snapshots(self.simulated).of(uuid)])

    def create_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        """Create a snapshot of a domain."""
        return self._do("create_snapshot", lambda: Snapshots(self.simulated).create(uuid, name), subject=uuid)

    def revert_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        """Revert a domain to a snapshot."""
        return self._do("revert_snapshot", lambda: Snapshots(self.simulated).revert(uuid, name), subject=uuid)

    def delete_snapshot(self, uuid: str, name: str) -> Deferred[None]:
        """Delete a snapshot."""
        return self._do("delete_snapshot", lambda: Snapshots(self.simulated).delete(uuid, name), subject=uuid)
