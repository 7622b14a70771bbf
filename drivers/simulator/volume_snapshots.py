"""Snapshots of the simulator's volumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import IVolumeSnapshots, NoSuchThing, Snapshot, Unsupported, Volume, WrongState
from fluidvm.drivers.simulator.host import OFF, SimulatedHost, key_of
from fluidvm.drivers.simulator.volumes import check_format


class VolumeSnapshots:
    """A host's snapshots of volumes, and the rules for them."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    def volume(self, pool: str, name: str) -> Volume:
        """@raise NoSuchThing: there is none."""
        for volume in self._host.volumes(pool):
            if volume.name == name:
                return volume
        raise NoSuchThing(f"There is no volume {name} in storage pool {pool}.")

    def unused(self, pool: str, name: str, format: str) -> Volume:
        """A volume that no domain uses. @raise WrongState: a domain uses it, or it has another format."""
        volume = self.volume(pool, name)
        check_format(volume, format)
        for domain in self._host.domains():
            if domain.state not in OFF and any(disk.path == volume.path for disk in domain.disks):
                raise WrongState(f"Volume {name} is a disk of domain {domain.name}, which is {domain.state}: stop it first.")
        return volume

    def of(self, pool: str, name: str) -> list[Snapshot]:
        """A volume's snapshots, oldest first."""
        self.volume(pool, name)
        return [Snapshot(**value) for value in self._host.kept(f"volume {key_of(pool, name)}")]

    def put(self, pool: str, name: str, kept: Sequence[Snapshot]) -> None:
        """Store a volume's snapshots."""
        self._host.keep(f"volume {key_of(pool, name)}", [asdict(one) for one in kept])

    def create(self, pool: str, name: str, format: str, snapshot: str) -> None:
        """Create a snapshot of a volume."""
        there = self.of(pool, name)
        if any(one.name == snapshot for one in there):
            return
        volume = self.unused(pool, name, format)
        if volume.format != "qcow2":
            raise Unsupported(f"Volume {name} has format {volume.format}, which can't have snapshots.")
        self.put(pool, name, [*there, Snapshot(snapshot, time.time(), False)])

    def revert(self, pool: str, name: str, format: str, snapshot: str) -> None:
        """Revert a volume to a snapshot."""
        if all(one.name != snapshot for one in self.of(pool, name)):
            raise NoSuchThing(f"Volume {name} has no snapshot {snapshot}.")
        self.unused(pool, name, format)

    def delete(self, pool: str, name: str, format: str, snapshot: str) -> None:
        """Delete a snapshot."""
        there = self.of(pool, name)
        left = [one for one in there if one.name != snapshot]
        if left != there:
            self.unused(pool, name, format)
            self.put(pool, name, left)


@implementer(IVolumeSnapshots)
class SimulatedVolumeSnapshots:
    """The verbs of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def list_volume_snapshots(self, pool: str, name: str) -> Deferred[Sequence[Snapshot]]:
        """List a volume's snapshots."""
        return self._do("list_volume_snapshots", lambda: VolumeSnapshots(self.simulated).of(pool, name))

    def create_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """Create a snapshot of a volume."""
        kept = VolumeSnapshots(self.simulated)
        return self._do("create_volume_snapshot", lambda: kept.create(pool, name, format, snapshot), subject=name)

    def revert_volume(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """Revert a volume to a snapshot."""
        kept = VolumeSnapshots(self.simulated)
        return self._do("revert_volume", lambda: kept.revert(pool, name, format, snapshot), subject=name)

    def delete_volume_snapshot(self, pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """Delete a snapshot."""
        kept = VolumeSnapshots(self.simulated)
        return self._do("delete_volume_snapshot", lambda: kept.delete(pool, name, format, snapshot), subject=name)
