"""Changing the owners and names of VMs and disks."""

from __future__ import annotations

from typing import Annotated

from fluidvm.access.call import Call
from fluidvm.api.placement import free_name
from fluidvm.engine.job import Job
from fluidvm.inventory.ledger import can_get
from fluidvm.inventory.quota import check_driver, check_vm, one_vm
from fluidvm.model.declare import task
from fluidvm.model.faults import Conflict
from fluidvm.model.kinds import DiskId, Id, VmId, named
from fluidvm.model.objects import VM, Disk, User
from fluidvm.store.objects import Change, Mention, Update

NewOwner = Annotated[int, Id("the new owner", type="user")]
VmName = Annotated[str, named("the new name, unique among its owner's VMs")]
DiskName = Annotated[str, named("the new name, unique among its owner's disks")]


def _given(thing: VM | Disk, owner: int) -> list[Change]:
    """The changes to store: to the old owner the object is deleted, to the new owner it is created."""
    return [
        Update(thing.TYPE, thing.id, {"owner": owner}),
        Mention(thing.TYPE, thing.id, "deleted", thing.owner),
        Mention(thing.TYPE, thing.id, "created", owner),
    ]


@task("vm", roles=("admin",))
async def set_vm_owner(job: Job, vm: VmId, owner: NewOwner) -> None:
    """Change the owner of a VM, its disks and its snapshots, within the resource plan of the new owner."""
    record = job.inventory.get(VM, vm)
    job.inventory.get(User, owner)
    if record.owner == owner:
        return
    disks = job.inventory.disks_of(vm)
    free_name(job.inventory, VM, record.name, owner)
    for disk in disks:
        free_name(job.inventory, Disk, disk.name, owner)
    sizes = sum(disk.size for disk in disks)
    check_driver(job.inventory, owner, record.driver)
    check_vm(job.inventory, owner, {**one_vm(record), "vm_disk": sizes})
    await job.reserve(
        owner,
        vms=1,
        running_vms=int(record.powered),
        **can_get(record),
        disks=len(disks),
        disk_space=sizes,
        snapshots=len(record.snapshots) + sum(len(disk.snapshots) for disk in disks),
    )
    job.put(*_given(record, owner))
    for disk in disks:
        job.put(*_given(disk, owner))


@task("disk", roles=("admin",))
async def set_disk_owner(job: Job, disk: DiskId, owner: NewOwner) -> None:
    """
    Change the owner of a detached disk, within the resource plan of the new owner.

    For an attached disk use set_vm_owner, which changes the owner of a VM and its disks.
    """
    record = job.inventory.get(Disk, disk)
    job.inventory.get(User, owner)
    if record.owner == owner:
        return
    if record.vm is not None:
        vm = job.inventory.get(VM, record.vm).name
        raise Conflict(f"Disk {record.name} is attached to VM {vm}: use set_vm_owner to change the owner of both.")
    free_name(job.inventory, Disk, record.name, owner)
    await job.reserve(owner, disks=1, disk_space=record.size, snapshots=len(record.snapshots))
    job.put(*_given(record, owner))


def _check_vm_name(call: Call, vm: int, name: str) -> None:
    record = call.inventory.find(VM, vm)
    if record is not None and record.name != name:
        free_name(call.inventory, VM, name, record.owner)


@task("vm", precheck=_check_vm_name)
async def set_vm_name(job: Job, vm: VmId, name: VmName) -> None:
    """Rename a VM, running or not. The name that the hypervisor uses doesn't change."""
    record = job.inventory.get(VM, vm)
    if record.name != name:
        free_name(job.inventory, VM, name, record.owner)
        job.put(Update("vm", vm, {"name": name, "domain": record.domain_name}))


def _check_disk_name(call: Call, disk: int, name: str) -> None:
    record = call.inventory.find(Disk, disk)
    if record is not None and record.name != name:
        free_name(call.inventory, Disk, name, record.owner)


@task("disk", precheck=_check_disk_name)
async def set_disk_name(job: Job, disk: DiskId, name: DiskName) -> None:
    """Rename a disk, attached or not. The name of its volume doesn't change."""
    record = job.inventory.get(Disk, disk)
    if record.name != name:
        free_name(job.inventory, Disk, name, record.owner)
        job.put(Update("disk", disk, {"name": name}))
