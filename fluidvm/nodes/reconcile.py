"""What the store says of a node's VMs and disks, compared with what the node says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fluidvm.driver import DomainInfo, Snapshot, Volume
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.objects import VM, Disk, vm_state
from fluidvm.store.objects import Change, Update

Busy = Callable[[str, int], bool]
"""Tells by type and id whether a task holds an object: the task itself will say what came of it."""


def vm_differences(inventory: Inventory, node: int, domains: Iterable[DomainInfo], busy: Busy) -> list[Change]:
    """
    Tell what has to be noted of a node's VMs.

    @param domains: all that the node has.
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
    Tell a VM's or disk's snapshots as they are to be noted: those that are known keep their ids, and what is known of them.

    @param told: all that its node has of it.
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
    """A node's disks that have been made and that nothing is being done to."""
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
    Tell what has to be noted of disks.

    @param volumes: all volumes of each storage pool that was asked; of one that isn't there, none.
    """
    there = {(pool, volume.name): volume for pool, found in volumes.items() for volume in found}
    changes: list[Change] = []
    for disk in disks:
        if disk.pool not in volumes:
            continue
        volume = there.get((disk.pool, disk.volume))
        fields: dict[str, Any] = {"state": "missing"} if volume is None else {"state": "ready"}
        if volume is not None and volume.format == disk.format:  # else its size isn't the disk's
            fields["size"] = volume.size
        changed = {key: value for key, value in fields.items() if getattr(disk, key) != value}
        if changed:
            changes.append(Update("disk", disk.id, changed))
    return changes
