"""The model of a compute node for rehearsals: a simulated host, filled from the inventory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from fluidvm.driver import (
    DomainDisk,
    DomainInfo,
    DomainInterface,
    DomainSpec,
    DomainState,
    DriverError,
    Snapshot,
    Volume,
)
from fluidvm.drivers.simulator.driver import Faults, SimulatedConnection
from fluidvm.drivers.simulator.host import SimulatedHost
from fluidvm.drivers.simulator.snapshots import AMOUNTS, SnapshotRecord, Snapshots
from fluidvm.drivers.simulator.volume_snapshots import VolumeSnapshots
from fluidvm.engine.rehearsal import Effort, Still
from fluidvm.inventory.inventory import Inventory
from fluidvm.nodes.driver_words import Words

_STATES = {
    "running": DomainState.RUNNING,
    "paused": DomainState.PAUSED,
    "starting": DomainState.RUNNING,
    "saved": DomainState.SAVED,
    "crashed": DomainState.CRASHED,
}


_NOT_THERE = ("creating", "missing")
"""States of VMs and disks that do not exist on their compute node."""


class _Model(SimulatedConnection):
    """A simulated connection whose verbs take effect at once, in memory."""

    def __init__(
        self, host: SimulatedHost, formats: tuple[str, ...], refused: Mapping[str, Exception], effort: Effort, words: Words
    ) -> None:
        super().__init__(host, Faults({}, Still()))  # type: ignore[arg-type]
        self.formats = formats  # type: ignore[assignment]
        self._refused = refused
        self._effort = effort
        self._words = words

    def _do(self, *work: Any, **more: Any) -> Deferred[Any]:
        return super()._do(*work, **more).addErrback(self._in_words)

    def _in_words(self, failure: Failure) -> Failure:
        return Failure(self._words.told(failure.value)) if isinstance(failure.value, DriverError) else failure

    def _check(self) -> None:
        self._effort.step()
        super()._check()

    def read_volume(self, pool: str, name: str, format: str, offset: int, length: int) -> Deferred[bytes]:
        """Return nothing: a rehearsal moves no data, because disks can be large."""
        return succeed(b"")

    def get_spec(self, uuid: str) -> Deferred[DomainSpec]:
        """Give the spec of a guest, or fail with the reason why the guest can't be taken over."""
        return fail(self._refused[uuid]) if uuid in self._refused else super().get_spec(uuid)

    def volume_of(self, path: str, format: str) -> Deferred[Volume]:
        """Like L{get_spec}, for a disk."""
        return fail(self._refused[path]) if path in self._refused else super().volume_of(path, format)


def _copy(inventory: Inventory, node: int, effort: Effort) -> SimulatedHost:
    """Build a host with the VMs and disks that the inventory has on the node."""
    host = SimulatedHost(None)
    for vm in inventory.vms_on(node):
        effort.step()
        if vm.state in _NOT_THERE:
            continue
        disks = tuple(DomainDisk(disk.path, disk.format, str(disk.target)) for disk in inventory.disks_of(vm.id))
        interfaces = _interfaces(vm.interfaces)
        domain = DomainInfo(
            vm.uuid,
            vm.domain_name,
            _STATES.get(vm.state, DomainState.STOPPED),
            vm.vcpus,
            vm.max_vcpus,
            vm.memory,
            vm.max_memory,
            disks,
            vm.autostart,
            interfaces,
        )
        host.add(domain)
        Snapshots(host).put(vm.uuid, [_as_kept(one, domain) for one in vm.snapshots])
    for disk in inventory.disks_on(node):
        effort.step()
        if disk.state in _NOT_THERE:
            continue
        host.add_volume(Volume(disk.pool, disk.volume, disk.path, disk.format, disk.size))
        VolumeSnapshots(host).put(disk.pool, disk.volume, [_snapshot(one) for one in disk.snapshots])
    return host


def _interfaces(told: Iterable[Mapping[str, Any]]) -> tuple[DomainInterface, ...]:
    return tuple(DomainInterface(one["mac"], one["network"], one.get("model", "")) for one in told)


def _snapshot(told: Mapping[str, Any]) -> Snapshot:
    return Snapshot(told["name"], told["created"], told["running"])


def _as_kept(told: Mapping[str, Any], domain: DomainInfo) -> SnapshotRecord:
    """Convert a snapshot of a VM. For a snapshot that the server did not create, only the node knows the former domain."""
    had = told.get("had")
    if had is None:
        return SnapshotRecord.of(domain, _snapshot(told))
    return SnapshotRecord(
        _snapshot(told), domain.disks, _interfaces(had["interfaces"]), tuple(had[name] for name in AMOUNTS)
    )


def model_of(
    inventory: Inventory,
    node: int,
    effort: Effort,
    strangers: Iterable[tuple[DomainInfo, Sequence[Volume], Sequence[Snapshot]]],
    formats: tuple[str, ...],
    refused: Mapping[str, Exception],
) -> _Model:
    """
    Build the model of a compute node with the simulator.

    @param effort: counts the work of the model.
    @param strangers: guests on the node that are not in the inventory, with their volumes and snapshots.
    @param formats: the disk formats that the node's driver supports.
    @param refused: why a guest can't be taken over, by its UUID.
    """
    host = _copy(inventory, node, effort)
    for info, volumes, kept in strangers:
        host.add(info)
        Snapshots(host).put(info.uuid, [SnapshotRecord.of(info, snapshot) for snapshot in kept])
        for volume in volumes:
            host.add_volume(volume)
    return _Model(host, formats, refused, effort, Words(inventory, node))
