"""Changing a VM's memory, virtual CPUs and disks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

from twisted.internet.defer import Deferred

from fluidvm.access.call import Call
from fluidvm.api.placement import may_force, take_room
from fluidvm.api.snapshot_records import refuse_snapshots
from fluidvm.api.storage.disks import check_attachable
from fluidvm.api.vms.shares import put_shares
from fluidvm.driver import DomainDisk, DomainState, IConnection, IDisks, ILiveResize
from fluidvm.engine.job import Job
from fluidvm.inventory.ledger import can_get
from fluidvm.inventory.quota import check_vm
from fluidvm.model.declare import task
from fluidvm.model.faults import Conflict
from fluidvm.model.kinds import Bool, DiskId, MiB, Struct, Text, Vcpus, VmId
from fluidvm.model.objects import VM, Disk
from fluidvm.store.objects import Touch, Update

AttachOptions = Annotated[
    dict[str, Any],
    Struct(
        "how to attach it",
        fields={
            "target": Text("the device name; default: the next free one", longest=3, pattern="vd[a-x]", rule="vda to vdx")
        },
    ),
]
TARGETS = tuple(f"vd{letter}" for letter in "abcdefghijklmnopqrstuvwx")


class _Resize(Protocol):
    """A verb of a connection that changes an amount of something that a domain has."""

    def __call__(self, uuid: str, amount: int, /) -> Deferred[None]: ...


async def _resize(
    job: Job,
    vm: int,
    what: str,
    stopped: Callable[[IConnection], _Resize],
    live: Callable[[ILiveResize], _Resize],
    amount: int,
    force: bool,
) -> None:
    record = job.inventory.get(VM, vm)
    # The amount up to the maximum has been counted from the beginning.
    growth = amount - can_get(record)[what]
    if growth > 0:
        check_vm(job.inventory, record.owner, {f"vm_{what}": amount})
        await job.reserve(record.owner, **{what: growth})
    connection = await job.connection(record.compute_node)
    if growth > 0:
        take_room(job, record.compute_node, force, **{"vcpus": 0, "memory": 0, what: growth})
    state = (await job.domain(record.compute_node, record.uuid)).state
    if state in (DomainState.STOPPED, DomainState.CRASHED):
        await stopped(connection)(record.uuid, amount)
    elif state is DomainState.RUNNING and job.nodes.provides(record.compute_node, ILiveResize):
        await live(await job.connection(record.compute_node, ILiveResize))(record.uuid, amount)
    else:
        raise Conflict(f"VM {record.name} is {state}: stop it first.")
    info = await job.domain(record.compute_node, record.uuid)
    fields = {"vcpus": info.vcpus, "max_vcpus": info.max_vcpus, "memory": info.memory, "max_memory": info.max_memory}
    job.put(Update("vm", vm, fields))
    if amount > getattr(record, what):
        await put_shares(job, vm, plugged=False)


ResizeOptions = Annotated[
    dict[str, Any],
    Struct(
        "how to change it",
        fields={"force": Bool("administrators only: do it even if the compute node has not enough free capacity")},
    ),
]
LIVE = ((ILiveResize, "running VMs too"),)


def _check_force(call: Call, options: dict[str, Any]) -> None:
    may_force(call.user, options, "options")


@task("vm", optional_abilities=LIVE, precheck=lambda call, vm, memory, options={}: _check_force(call, options))
async def set_vm_memory(job: Job, vm: VmId, memory: MiB, options: ResizeOptions = {}) -> None:  # noqa: B006
    """
    Change the memory of a VM.

    For a running VM the change takes effect at once, up to max_memory, if the driver and the guest support it. Otherwise the
    task fails, and its error says that the VM must be stopped. A value above max_memory also raises max_memory, and the
    compute node must have that much more free. A smaller value doesn't lower max_memory, and so frees nothing of the
    resource plan, which counts max_memory.
    """
    await _resize(
        job,
        vm,
        "memory",
        lambda node: node.set_memory,
        lambda node: node.resize_memory,
        memory,
        may_force(job.user(), options, "options"),
    )


@task("vm", optional_abilities=LIVE, precheck=lambda call, vm, vcpus, options={}: _check_force(call, options))
async def set_vm_vcpus(job: Job, vm: VmId, vcpus: Vcpus, options: ResizeOptions = {}) -> None:  # noqa: B006
    """
    Change the number of virtual CPUs of a VM.

    For a running VM the change takes effect at once, up to max_vcpus, if the driver and the guest support it. Otherwise the
    task fails, and its error says that the VM must be stopped. max_vcpus is raised and counted as max_memory is in
    set_vm_memory.
    """
    await _resize(
        job,
        vm,
        "vcpus",
        lambda node: node.set_vcpus,
        lambda node: node.resize_vcpus,
        vcpus,
        may_force(job.user(), options, "options"),
    )


@task("vm", needs=(IDisks,))
async def attach_disk(job: Job, vm: VmId, disk: DiskId, options: AttachOptions = {}) -> None:  # noqa: B006
    """Attach a disk to a VM: at once if it is running, and for later starts."""
    record, volume = job.inventory.get(VM, vm), job.inventory.get(Disk, disk)
    taken = {other.target for other in job.inventory.disks_of(vm)}
    if volume.vm == vm:
        raise Conflict(f"Disk {volume.name} is already attached to VM {record.name}.")
    check_attachable(job.inventory, volume, record)
    target = options.get("target") or next((name for name in TARGETS if name not in taken), None)
    if target is None or target in taken:
        raise Conflict(f"VM {record.name} has no free target{f' {target}' if target else ''} for a disk.")
    sizes = sum(other.size for other in job.inventory.disks_of(vm))
    check_vm(job.inventory, record.owner, {"vm_disk": sizes + volume.size})
    connection = await job.connection(record.compute_node, IDisks)
    await refuse_snapshots(job, record, "it can't be reverted to them with another disk")
    await connection.attach_disk(record.uuid, DomainDisk(volume.path, volume.format, target))
    job.put(Update("disk", disk, {"vm": vm, "target": target}), Touch("vm", vm))
    await put_shares(job, vm, plugged=True)


@task("vm", needs=(IDisks,))
async def detach_disk(job: Job, vm: VmId, disk: DiskId) -> None:
    """
    Detach a disk from a VM: at once if it is running (as soon as its guest releases the disk), and for later starts.

    The disk isn't deleted.
    """
    record, volume = job.inventory.get(VM, vm), job.inventory.get(Disk, disk)
    if volume.vm != vm or volume.target is None:
        raise Conflict(f"Disk {volume.name} isn't attached to VM {record.name}.")
    connection = await job.connection(record.compute_node, IDisks)
    await refuse_snapshots(job, record, "they are partly stored in its disks")
    await connection.detach_disk(record.uuid, volume.target)
    job.put(Update("disk", disk, {"vm": None, "target": None}), Touch("vm", vm))
