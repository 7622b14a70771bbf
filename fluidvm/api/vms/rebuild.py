"""Rebuilding VMs from an image."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from twisted.internet.defer import CancelledError

from fluidvm.api.snapshot_records import refuse_snapshots
from fluidvm.api.storage.disks import delete_volume, filled_volume, with_image
from fluidvm.api.vms.vms import domain_spec
from fluidvm.driver import DomainDisk, DomainState, IDisks, IImages, IVolumes
from fluidvm.engine.job import Job
from fluidvm.inventory.inventory import missing
from fluidvm.inventory.quota import check_vm
from fluidvm.model.declare import task
from fluidvm.model.faults import Conflict
from fluidvm.model.kinds import ImageId, VmId
from fluidvm.model.objects import VM, Disk
from fluidvm.store.objects import Update


@task("vm", needs=(IImages,))
async def rebuild_vm(job: Job, vm: VmId, image: ImageId) -> None:
    """
    Create the first disk of a stopped VM again from an image. Its content is lost. Everything else stays as it is.

    The disk keeps its size, unless the image requires more. The old volume is kept until the new one is complete. If the
    task fails, nothing has changed.
    """
    record = job.inventory.get(VM, vm)
    disks = job.inventory.disks_of(vm)
    if not disks:
        raise Conflict(f"VM {record.name} has no disk.")
    for ability in (IDisks, IImages, IVolumes):
        await job.connection(record.compute_node, ability)
    if "volume" not in job.memo:
        await _plan(job, record, disks, image)
    first, new = disks[0], job.memo["volume"]
    old = replace(first, pool=job.memo["old"][0], volume=job.memo["old"][1])
    if first.volume != new:
        await _replace(job, record, disks, image)
    await delete_volume(job, old)


async def _plan(job: Job, vm: VM, disks: list[Disk], image: int) -> None:
    """Check everything, and store the name of the new volume."""
    disk = disks[0]
    info = await job.domain(vm.compute_node, vm.uuid)
    if info.state not in (DomainState.STOPPED, DomainState.CRASHED):
        raise Conflict(f"VM {vm.name} is {info.state}: stop it first.")
    if disk.state != "ready":
        raise Conflict(f"Disk {disk.name} is {disk.state}.")
    await refuse_snapshots(job, vm, "they belong to the disk that would be replaced")
    await refuse_snapshots(job, disk, "they belong to the disk that would be replaced")
    spec = with_image(job, {"image": image})
    if spec["format"] not in job.nodes.formats(vm.compute_node):
        raise Conflict(f"The compute node of VM {vm.name} doesn't support disks of format {spec['format']}.")
    size = max(disk.size, spec["size"])
    check_vm(job.inventory, vm.owner, {"vm_disk": size + sum(other.size for other in disks[1:])})
    job.memo["new"] = {"size": size, "format": spec["format"]}
    job.memo["old"] = [disk.pool, disk.volume]
    await job.reserve(vm.owner, disk_space=size - disk.size)
    job.memo["volume"] = f"{disk.name}-{uuid4().hex[:12]}"
    await job.flush()


async def _replace(job: Job, vm: VM, disks: list[Disk], image: int) -> None:
    new = replace(disks[0], volume=job.memo["volume"], image=image, **job.memo["new"])
    job.status(f"creating disk {new.name} again")
    try:
        if not job.inventory.knows("image", image):
            raise missing("image", image)
        fields = await filled_volume(job, new, job.progress)
        new = replace(new, **fields)
        connection = await job.connection(vm.compute_node)
        attached = [DomainDisk(disk.path, disk.format, str(disk.target)) for disk in (new, *disks[1:])]
        await connection.define_domain(domain_spec(vm, attached))
    except CancelledError:
        raise  # the server stops: its next start resumes here
    except Exception:
        await delete_volume(job, new)
        raise
    changed = {name: getattr(new, name) for name in ("volume", "path", "size", "format", "image")}
    job.put(Update("disk", new.id, changed))
    await job.flush()
