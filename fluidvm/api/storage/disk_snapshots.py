"""Snapshots of single disks: made, gone back to, deleted, listed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.snapshot_records import listed, look, make, snapshot_of
from fluidvm.api.storage.disks import check_idle
from fluidvm.driver import IVolumeSnapshots
from fluidvm.engine.job import Job
from fluidvm.model.declare import query, task
from fluidvm.model.kinds import DiskId, Int, filter_of, named
from fluidvm.model.objects import Disk
from fluidvm.model.xmlvalue import Members

SnapshotName = Annotated[str, named("its name, unique among the disk's own snapshots")]
SnapshotId = Annotated[int, Int("id of one of the disk's own snapshots", low=1)]
SnapshotFilter = Annotated[
    dict[str, Any], filter_of({"id": int, "disk": int, "name": str, "running": bool, "created": datetime})
]


# Not looked at when it is called: the same batch may delete the one that has the name.
@task("disk", needs=(IVolumeSnapshots,))
async def create_disk_snapshot(job: Job, disk: DiskId, name: SnapshotName) -> int:
    """
    Keep what is on a disk now under a name; it is detached, or its VM is stopped. The result is the snapshot's id.

    The disk's own snapshots are others than those of the VM that it is attached to. As long as it has any it can't be
    resized, nor its VM moved. The snapshot is listed before the hypervisor is asked. If the compute node stops answering
    meanwhile, the task fails and it stays listed until the node is back and tells whether it was made.
    """
    record = job.inventory.get(Disk, disk)
    connection = await job.connection(record.compute_node, IVolumeSnapshots)
    check_idle(job, record)
    at = record.pool, record.volume, record.format
    return await make(job, record, name, False, lambda: connection.create_volume_snapshot(*at, name))


@task("disk", needs=(IVolumeSnapshots,))
async def revert_disk_snapshot(job: Job, disk: DiskId, snapshot: SnapshotId) -> None:
    """Make a disk what it was; it is detached, or its VM is stopped. What is on it is lost, unless a snapshot has it."""
    record = job.inventory.get(Disk, disk)
    kept = snapshot_of(record, snapshot)
    connection = await job.connection(record.compute_node, IVolumeSnapshots)
    check_idle(job, record)
    job.status(f"disk {record.name} goes back to snapshot {kept['name']}")
    await connection.revert_volume(record.pool, record.volume, record.format, kept["name"])


@task("disk", needs=(IVolumeSnapshots,))
async def delete_disk_snapshot(job: Job, disk: DiskId, snapshot: SnapshotId) -> None:
    """Delete a disk's snapshot, and free what it takes; the disk is detached, or its VM is stopped."""
    record = job.inventory.get(Disk, disk)
    kept = snapshot_of(record, snapshot)
    connection = await job.connection(record.compute_node, IVolumeSnapshots)
    check_idle(job, record)
    job.status(f"deleting snapshot {kept['name']} of disk {record.name}")
    await connection.delete_volume_snapshot(record.pool, record.volume, record.format, kept["name"])
    await look(job, record)


@query("array")
def list_disk_snapshots(call: Call, disk: DiskId, filter: SnapshotFilter = {}) -> Members:  # noqa: B006
    """
    List a disk's own snapshots: structs of id, disk, name, running (always false) and created.

    Those that its VM keeps are told by list_vm_snapshots.
    """
    return listed(call.inventory.get(Disk, disk), filter)
