"""Compares the inventory's records of VMs and disks with what their compute node reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fluidvm.driver import DomainInfo, Snapshot, Volume
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.objects import VM, Disk, vm_state
from fluidvm.store.objects import Change, Update

Busy = Callable[[str, int], bool]
"""Tells by type and id whether a task has claimed an object: that task will store the outcome itself."""


def vm_differences(inventory: Inventory, node: int, domains: Iterable[DomainInfo], busy: Busy) -> list[Change]:
    """
    Return the updates that a node's VMs need.

    @param domains: all domains of the node.
    """
    real = {domain.uuid: domain for domain in domains}
    changes: list[Change] = []
    for vm in inventory.vms_on(node):
        if busy("vm", vm.id) or vm.state == "creating":
            continue
        domain = real.get(vm.uuid)
        if domain is None:
            fields: dict[str, Any] = {"state": "missing"}
        else:
            fields = {
                "state": str(domain.state),
                "vcpus": domain.vcpus,
                "max_vcpus": domain.max_vcpus,
                "memory": domain.memory,
                "max_memory": domain.max_memory,
            }
        changed = {key: value for key, value in fields.items() if getattr(vm, key) != value}
        if "state" in changed:
            changed |= vm_state(changed["state"])
        if changed:
            changes.append(Update("vm", vm.id, changed))
    return changes


def snapshot_records(inventory: Inventory, thing: VM | Disk, told: Iterable[Snapshot]) -> tuple[Mapping[str, Any], ...]:
    """
    Return the snapshot records of a VM or disk. Known snapshots keep their ids and other known fields.

    @param told: all snapshots that the node reports for it.
    """
    known = {one["name"]: one for one in thing.snapshots}
    return tuple(
        {
            **(known[one.name] if one.name in known else {"id": inventory.next_id("snapshot"), "name": one.name}),
            "created": one.created,
            "running": one.running,
        }
        for one in told
    )


def comparable(inventory: Inventory, node: int, busy: Busy) -> list[Disk]:
    """Return the disks of a node that exist and that no task is working on."""
    return [
        disk
        for disk in inventory.disks_on(node)
        if disk.state in ("ready", "missing")
        and disk.path
        and not busy("disk", disk.id)
        and not (disk.vm is not None and busy("vm", disk.vm))
    ]


def disk_differences(disks: Iterable[Disk], volumes: Mapping[str, Sequence[Volume]]) -> list[Change]:
    """
    Return the updates that disks need.

    @param volumes: all volumes of each storage pool that was listed; none for a pool that does not exist.
    """
    there = {(pool, volume.name): volume for pool, found in volumes.items() for volume in found}
    changes: list[Change] = []
    for disk in disks:
        if disk.pool not in volumes:
            continue
        volume = there.get((disk.pool, disk.volume))
        fields: dict[str, Any] = {"state": "missing"} if volume is None else {"state": "ready"}
        if volume is not None and volume.format == disk.format:  # else its size is not the size of the disk
            fields["size"] = volume.size
        changed = {key: value for key, value in fields.items() if getattr(disk, key) != value}
        if changed:
            changes.append(Update("disk", disk.id, changed))
    return changes
