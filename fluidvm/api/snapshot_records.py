"""What is kept of VMs and disks now: their snapshots, as their compute nodes tell them, and new ones."""

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
    """What it is called in a sentence."""
    return f"VM {thing.name}" if isinstance(thing, VM) else f"Disk {thing.name}"


def snapshot_of(thing: VM | Disk, snapshot: int) -> Mapping[str, Any]:
    """Give a VM's or disk's snapshot. @raise NotFound: it has none with this id."""
    for one in thing.snapshots:
        if one["id"] == snapshot:
            return one
    raise NotFound(f"{name_of(thing)} has no snapshot {snapshot}.")


def listed(thing: VM | Disk, wanted: dict[str, Any]) -> Members:
    """
    Give a VM's or disk's snapshots as they are told.

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
    """Ask for a VM's or disk's snapshots, note those that others made or removed, and give it as it is then."""
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
        return thing  # gone from its node: what is to be done to it will tell
    kept = snapshot_records(job.inventory, thing, told)
    if kept == thing.snapshots:
        return thing
    job.put(Update(thing.TYPE, thing.id, {"snapshots": kept}))
    return replace(thing, snapshots=kept)


async def refuse_snapshots(job: Job, thing: VM | Disk, why: str) -> None:
    """
    Check that a VM or disk has no snapshots.

    @param why: what can't be done else.
    @raise Conflict: it has some.
    """
    now = await look(job, thing)
    if now.snapshots:
        names = ", ".join(one["name"] for one in now.snapshots)
        remover = f"delete_{thing.TYPE}_snapshot"
        raise Conflict(f"{name_of(now)} has snapshots ({names}): {why}; delete them with {remover} first.")


def _shape(vm: VM) -> dict[str, Any]:
    """What a VM has now that it must have again to go back to its memory: only its host would know else."""
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
    Make a snapshot. It is durable before the hypervisor is asked, and counted by its owner's plan from then on.

    If the hypervisor refuses, it is gone again; if it doesn't answer, it stays noted until the node tells.

    @param running: whether the memory will be kept too, as far as it is known.
    @param ask: has the hypervisor make it; repeatable.
    @return: its id.
    @raise Conflict: the name is taken.
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
        # From here on one of this name is this task's own.
        job.memo["snapshot"] = made["id"]
        await job.flush()
        job.unreserve()
    job.status(f"making snapshot {name} of {thing.name}")
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
