"""Resizing and copying disks, and listing storage pools."""

from __future__ import annotations

from typing import Annotated, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from fluidvm.access.call import Call
from fluidvm.api.listing import page
from fluidvm.api.placement import free_name
from fluidvm.api.snapshot_records import refuse_snapshots
from fluidvm.api.storage.disks import check_idle, delete_volume, new_disk
from fluidvm.driver import DomainDisk, DriverError, IDiskResize, IVolumes, Progress
from fluidvm.engine.job import Job
from fluidvm.inventory.quota import check_vm
from fluidvm.model.declare import query, task
from fluidvm.model.faults import ApiFault, Conflict
from fluidvm.model.kinds import DiskId, DiskMiB, NodeId, filter_of, named
from fluidvm.model.objects import VM, ComputeNode, Disk
from fluidvm.model.xmlvalue import INT_HIGH, Members
from fluidvm.store.objects import Create, Delete, Update

CopyName = Annotated[str, named("the copy's name, unique among its owner's disks")]
TRIES = 60
"""Attempts, one per second, to delete what an interrupted copy has left: the host may still be working on it."""


@task("disk", needs=(IVolumes,), optional_abilities=((IDiskResize, "running VMs too"),))
async def resize_disk(job: Job, disk: DiskId, size: DiskMiB) -> None:
    """
    Make a disk larger. A disk can't be made smaller.

    If its VM is running and the driver supports it, the guest sees the new size at once. Otherwise the task fails, and its
    error says that the VM must be stopped.
    """
    record = job.inventory.get(Disk, disk)
    if size < record.size:
        raise Conflict(f"Disk {record.name} has {record.size} MiB: it can't be made smaller.")
    if record.state != "ready":
        raise Conflict(f"Disk {record.name} is {record.state}.")
    vm = None if record.vm is None else job.inventory.get(VM, record.vm)
    if vm is not None:
        others = sum(other.size for other in job.inventory.disks_of(vm.id) if other.id != disk)
        check_vm(job.inventory, record.owner, {"vm_disk": others + size})
    connection = await job.connection(record.compute_node, IVolumes)
    running = vm if vm is not None and vm.powered else None
    if running is None:
        check_idle(job, record)
    elif not job.nodes.provides(record.compute_node, IDiskResize):
        raise Conflict(f"VM {running.name} is running: stop it to make its disk {record.name} larger.")
    await refuse_snapshots(job, record, "reverting to one of them would restore the old size")
    if vm is not None:
        await refuse_snapshots(job, vm, "reverting to one of them would restore the disks' old sizes")
    await job.reserve(record.owner, disk_space=size - record.size)
    if running is not None:
        guests = await job.connection(record.compute_node, IDiskResize)
        await guests.resize_disk(running.uuid, DomainDisk(record.path, record.format, str(record.target)), size)
    else:
        await connection.resize_volume(record.pool, record.volume, record.format, size)
    job.put(Update("disk", disk, {"size": size}))


def _check_copy(call: Call, disk: int, name: str) -> None:
    record = call.inventory.find(Disk, disk)
    free_name(call.inventory, Disk, name, call.user.id if record is None else record.owner)


@task("disk", creates=True, precheck=_check_copy, needs=(IVolumes,))
async def clone_disk(job: Job, disk: DiskId, name: CopyName) -> None:
    """
    Copy a disk that is detached or whose VM is stopped. The copy is detached, has the same owner, and is in the same pool.

    The copy is stored before the hypervisor is asked. If the task fails, nothing is left.
    """
    source = job.inventory.get(Disk, disk)
    copy = job.inventory.find(Disk, job.target)
    await job.connection(source.compute_node, IVolumes)
    resumed = copy is not None
    if copy is None:
        free_name(job.inventory, Disk, name, source.owner)
        check_idle(job, source)
        node = job.inventory.get(ComputeNode, source.compute_node)
        job.reserve_for(source.owner, disks=1, disk_space=source.size)
        spec = {"size": source.size, "format": source.format, "pool": source.pool}
        copy = new_disk(job, spec, name, source.owner, node, id=job.target)
        job.put(Create(copy))
        await job.flush()
        job.unreserve()
    try:
        job.status(f"copying {source.name}")
        await copy_volume(job, source, copy, job.progress, resumed)
    except CancelledError:
        raise  # the server stops: its next start resumes here
    except Exception:
        try:
            await delete_volume(job, copy)
        except Exception as error:
            # The record stays, as missing: without it, a volume that may exist would be orphaned.
            job.put(Update("disk", copy.id, {"state": "missing"}))
            job.status(f"cleaning up failed: {error}")
        else:
            job.put(Delete("disk", copy.id))
        raise


async def copy_volume(job: Job, source: Disk, copy: Disk, progress: Progress, resumed: bool) -> None:
    """
    Copy the volume of one disk for another, and store the result.

    @param resumed: the task was interrupted, so that an incomplete copy may exist.
    """
    connection = await job.connection(source.compute_node, IVolumes)
    if resumed:
        await _discard(job, copy)
    cloning = connection.clone_volume(source.pool, source.volume, source.format, copy.volume, progress)
    volume = await job.interruptible(cloning)
    job.put(Update("disk", copy.id, {"state": "ready", "path": volume.path}))


async def _discard(job: Job, copy: Disk) -> None:
    for left in reversed(range(TRIES)):
        try:
            await delete_volume(job, copy)
            return
        except (DriverError, ApiFault):
            if not left:
                raise
            waiting: Deferred[None] = deferLater(job.clock, 1.0, lambda: None)
            await waiting


PoolFilter = Annotated[dict[str, Any], filter_of({"name": str, "capacity": int, "free": int}, "name")]


@query("array", roles=("admin", "auditor"))
async def list_storage_pools(call: Call, node: NodeId, filter: PoolFilter = {}) -> Members:  # noqa: B006
    """List the storage pools of a compute node by name: structs of name, capacity and free (both in MiB)."""
    connection = await call.services.resources.nodes.connection(node, IVolumes)
    pools = await connection.list_pools()
    wires = (
        {"name": pool.name, "capacity": min(INT_HIGH, pool.capacity), "free": min(INT_HIGH, pool.free)} for pool in pools
    )
    return page("storage pool", wires, filter)
