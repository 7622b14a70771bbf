"""Changing what a VM has: memory, virtual CPUs, disks."""

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
        fields={"target": Text("the device; default: the next free", longest=3, pattern="vd[a-x]", rule="vda to vdx")},
    ),
]
TARGETS = tuple(f"vd{letter}" for letter in "abcdefghijklmnopqrstuvwx")


class _Resize(Protocol):
    """One of a connection's verbs that give a domain another amount of something."""

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
    # Up to its maximum it has been counted from the beginning.
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
        raise Conflict(f"VM {record.name} is {state}: this needs a stop.")
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
    Give a VM another amount of memory.

    A running one has it at once, up to its max_memory and where its driver and guest can; else the task fails and says that
    it needs a stop. More than max_memory raises that, too; less doesn't lower it, and as max_memory is what counts, it frees
    nothing of the resource plan. What it takes more of must be free on the compute node.
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
    Give a VM another number of virtual CPUs.

    A running one has them at once, up to its max_vcpus and where its driver and guest can; else the task fails and says that
    it needs a stop. max_vcpus counts as max_memory does.
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
    """Give a VM a disk: at once if it runs, and for its next starts."""
    record, volume = job.inventory.get(VM, vm), job.inventory.get(Disk, disk)
    taken = {other.target for other in job.inventory.disks_of(vm)}
    if volume.vm == vm:
        raise Conflict(f"Disk {volume.name} is attached to VM {record.name} already.")
    check_attachable(job.inventory, volume, record)
    target = options.get("target") or next((name for name in TARGETS if name not in taken), None)
    if target is None or target in taken:
        raise Conflict(f"VM {record.name} has no free target{f' {target}' if target else ''} for a disk.")
    sizes = sum(other.size for other in job.inventory.disks_of(vm))
    check_vm(job.inventory, record.owner, {"vm_disk": sizes + volume.size})
    connection = await job.connection(record.compute_node, IDisks)
    await refuse_snapshots(job, record, "it couldn't go back to them with another disk")
    await connection.attach_disk(record.uuid, DomainDisk(volume.path, volume.format, target))
    job.put(Update("disk", disk, {"vm": vm, "target": target}), Touch("vm", vm))
    await put_shares(job, vm, plugged=True)


@task("vm", needs=(IDisks,))
async def detach_disk(job: Job, vm: VmId, disk: DiskId) -> None:
    """Take a disk from a VM: at once if it runs, when its guest lets go, and for its next starts. The disk stays."""
    record, volume = job.inventory.get(VM, vm), job.inventory.get(Disk, disk)
    if volume.vm != vm or volume.target is None:
        raise Conflict(f"Disk {volume.name} isn't attached to VM {record.name}.")
    connection = await job.connection(record.compute_node, IDisks)
    await refuse_snapshots(job, record, "a part of them lies in its disks")
    await connection.detach_disk(record.uuid, volume.target)
    job.put(Update("disk", disk, {"vm": None, "target": None}), Touch("vm", vm))
