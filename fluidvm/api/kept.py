"""What is kept of VMs and disks now: their snapshots, as their compute nodes tell them."""

from __future__ import annotations

from dataclasses import replace

from fluidvm.driver import ISnapshots, IVolumeSnapshots, NoSuchThing
from fluidvm.engine.job import Job
from fluidvm.faults import Conflict
from fluidvm.objects import VM, Disk
from fluidvm.reconcile import kept_of
from fluidvm.store.objects import Update


async def look(job: Job, vm: VM) -> VM:
    """Ask for a VM's snapshots, note those that others made or removed, and give the VM as it is then."""
    if not job.nodes.provides(vm.compute_node, ISnapshots):
        return vm
    connection = await job.connection(vm.compute_node, ISnapshots)
    try:
        told = await connection.list_snapshots(vm.uuid)
    except NoSuchThing:
        return vm  # its domain is gone: what is to be done to it will tell
    kept = kept_of(job.inventory, vm, told)
    if kept == vm.snapshots:
        return vm
    job.put(Update("vm", vm.id, {"snapshots": kept}))
    return replace(vm, snapshots=kept)


async def refuse_kept(job: Job, vm: VM, what: str) -> None:
    """
    Check that a VM has no snapshots.

    @param what: what can't be done else, and why.
    @raise Conflict: it has some.
    """
    vm = await look(job, vm)
    if vm.snapshots:
        names = ", ".join(one["name"] for one in vm.snapshots)
        raise Conflict(f"VM {vm.name} has snapshots ({names}): {what}. delete_vm_snapshot removes them.")


async def look_at_disk(job: Job, disk: Disk) -> Disk:
    """As L{look}, for a disk's own."""
    if not job.nodes.provides(disk.compute_node, IVolumeSnapshots):
        return disk
    connection = await job.connection(disk.compute_node, IVolumeSnapshots)
    try:
        told = await connection.list_volume_snapshots(disk.pool, disk.volume)
    except NoSuchThing:
        return disk  # its volume is gone: what is to be done to it will tell
    kept = kept_of(job.inventory, disk, told)
    if kept == disk.snapshots:
        return disk
    job.put(Update("disk", disk.id, {"snapshots": kept}))
    return replace(disk, snapshots=kept)


async def refuse_kept_disk(job: Job, disk: Disk, what: str) -> None:
    """As L{refuse_kept}, for a disk's own."""
    disk = await look_at_disk(job, disk)
    if disk.snapshots:
        names = ", ".join(one["name"] for one in disk.snapshots)
        raise Conflict(f"Disk {disk.name} has snapshots ({names}): {what}. delete_disk_snapshot removes them.")
