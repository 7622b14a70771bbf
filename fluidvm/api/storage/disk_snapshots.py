"""Creating, reverting to, deleting and listing snapshots of single disks."""

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

SnapshotName = Annotated[str, named("the snapshot's name, unique among the disk's own snapshots")]
SnapshotId = Annotated[int, Int("id of one of the disk's own snapshots", low=1)]
SnapshotFilter = Annotated[
    dict[str, Any], filter_of({"id": int, "disk": int, "name": str, "running": bool, "created": datetime})
]


# The name isn't checked at the time of the call: a pending task may delete the snapshot that has it.
@task("disk", needs=(IVolumeSnapshots,))
async def create_disk_snapshot(job: Job, disk: DiskId, name: SnapshotName) -> int:
    """
    Create a snapshot of a disk that is detached or whose VM is stopped. The result is the snapshot's id.

    The disk's own snapshots are independent of those of its VM. While it has any, the disk can't be resized, and its VM
    can't be moved. The snapshot is listed before the hypervisor creates it. If the compute node stops answering meanwhile,
    the task fails. The snapshot then stays listed until the node is back and reports whether it exists.
    """
    record = job.inventory.get(Disk, disk)
    connection = await job.connection(record.compute_node, IVolumeSnapshots)
    check_idle(job, record)
    at = record.pool, record.volume, record.format
    return await make(job, record, name, False, lambda: connection.create_volume_snapshot(*at, name))


@task("disk", needs=(IVolumeSnapshots,))
async def revert_disk_snapshot(job: Job, disk: DiskId, snapshot: SnapshotId) -> None:
    """
    Revert a disk that is detached or whose VM is stopped to a snapshot.

    The current content of the disk is lost, unless another snapshot contains it.
    """
    record = job.inventory.get(Disk, disk)
    kept = snapshot_of(record, snapshot)
    connection = await job.connection(record.compute_node, IVolumeSnapshots)
    check_idle(job, record)
    job.status(f"reverting disk {record.name} to snapshot {kept['name']}")
    await connection.revert_volume(record.pool, record.volume, record.format, kept["name"])


@task("disk", needs=(IVolumeSnapshots,))
async def delete_disk_snapshot(job: Job, disk: DiskId, snapshot: SnapshotId) -> None:
    """Delete a snapshot of a disk that is detached or whose VM is stopped, and free its space."""
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

    Snapshots of its VM are listed by list_vm_snapshots.
    """
    return listed(call.inventory.get(Disk, disk), filter)
