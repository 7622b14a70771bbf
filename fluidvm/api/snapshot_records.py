"""The records of snapshots of VMs and disks: comparing them with the compute nodes, and creating new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from fluidvm.api.listing import page
from fluidvm.driver import DriverError, ISnapshots, IVolumeSnapshots, NoSuchThing, Unreachable
from fluidvm.engine.job import Job
from fluidvm.model.faults import Conflict, NotFound
from fluidvm.model.objects import VM, Disk
from fluidvm.model.xmlvalue import Members, moment
from fluidvm.nodes.reconcile import snapshot_records
from fluidvm.store.objects import Update

T = TypeVar("T", bound=VM | Disk)


def name_of(thing: VM | Disk) -> str:
    """Return how a fault names a VM or disk."""
    return f"VM {thing.name}" if isinstance(thing, VM) else f"Disk {thing.name}"


def snapshot_of(thing: VM | Disk, snapshot: int) -> Mapping[str, Any]:
    """Return a snapshot of a VM or disk. @raise NotFound: it has none with this id."""
    for one in thing.snapshots:
        if one["id"] == snapshot:
            return one
    raise NotFound(f"{name_of(thing)} has no snapshot {snapshot}.")


def listed(thing: VM | Disk, wanted: dict[str, Any]) -> Members:
    """
    Return the snapshots of a VM or disk in their wire form.

    @param wanted: a checked filter.
    """
    shown = [
        {
            "id": one["id"],
            thing.TYPE: thing.id,
            "name": one["name"],
            "running": one["running"],
            "created": moment(one["created"]),
        }
        for one in thing.snapshots
    ]
    return page("snapshot", shown, wanted, "id")


async def look(job: Job, thing: T) -> T:
    """Read a VM's or disk's snapshots from its compute node, record changes made there, and return the updated object."""
    ability = ISnapshots if isinstance(thing, VM) else IVolumeSnapshots
    if not job.nodes.provides(thing.compute_node, ability):
        return thing
    node = thing.compute_node
    try:
        if isinstance(thing, VM):
            told = await (await job.connection(node, ISnapshots)).list_snapshots(thing.uuid)
        else:
            told = await (await job.connection(node, IVolumeSnapshots)).list_volume_snapshots(thing.pool, thing.volume)
    except NoSuchThing:
        return thing  # gone from its node: the next operation on it will fail and say so
    kept = snapshot_records(job.inventory, thing, told)
    if kept == thing.snapshots:
        return thing
    job.put(Update(thing.TYPE, thing.id, {"snapshots": kept}))
    return replace(thing, snapshots=kept)


async def refuse_snapshots(job: Job, thing: VM | Disk, why: str) -> None:
    """
    Check that a VM or disk has no snapshots.

    @param why: the reason, for the fault.
    @raise Conflict: it has some.
    """
    now = await look(job, thing)
    if now.snapshots:
        names = ", ".join(one["name"] for one in now.snapshots)
        remover = f"delete_{thing.TYPE}_snapshot"
        raise Conflict(f"{name_of(now)} has snapshots ({names}): {why}; delete them with {remover} first.")


def _shape(vm: VM) -> dict[str, Any]:
    """Return the properties that a VM must have to be reverted to its memory: otherwise only its host would know them."""
    interfaces = [{key: one[key] for key in ("mac", "network", "model") if key in one} for one in vm.interfaces]
    return {
        "vcpus": vm.vcpus,
        "max_vcpus": vm.max_vcpus,
        "memory": vm.memory,
        "max_memory": vm.max_memory,
        "interfaces": interfaces,
    }


async def make(job: Job, thing: T, name: str, running: bool, ask: Callable[[], Deferred[None]]) -> int:
    """
    Create a snapshot. It is stored before the hypervisor is asked, and counts in its owner's plan from then on.

    If the hypervisor refuses, the record is removed. If it doesn't answer, the record stays until the node reports.

    @param running: whether it will contain the memory, as far as that is known.
    @param ask: asks the hypervisor to create it; can be repeated.
    @return: its id.
    @raise Conflict: the name is already in use.
    """
    if "snapshot" not in job.memo:
        thing = await look(job, thing)
        if any(one["name"] == name for one in thing.snapshots):
            raise Conflict(f"{name_of(thing)} already has a snapshot named {name}.")
        job.reserve_for(thing.owner, snapshots=1)
        made = {"id": job.inventory.next_id("snapshot"), "name": name, "created": job.wall_clock(), "running": running}
        if isinstance(thing, VM):
            made["had"] = _shape(thing)
        job.put(Update(thing.TYPE, thing.id, {"snapshots": (*thing.snapshots, made)}))
        # From here on, a snapshot of this name belongs to this task.
        job.memo["snapshot"] = made["id"]
        await job.flush()
        job.unreserve()
    job.status(f"creating snapshot {name} of {thing.name}")
    try:
        await ask()
    except DriverError as error:
        if not isinstance(error, Unreachable):
            there = job.inventory.get(type(thing), thing.id).snapshots
            left = tuple(one for one in there if one["name"] != name)
            job.put(Update(thing.TYPE, thing.id, {"snapshots": left}))
        raise
    now = await look(job, job.inventory.get(type(thing), thing.id))
    if all(one["name"] != name for one in now.snapshots):
        raise NotFound(f"Snapshot {name} of {thing.name} was removed by someone else while it was being created.")
    return int(job.memo["snapshot"])
