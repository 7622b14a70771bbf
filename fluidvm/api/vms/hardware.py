"""Changing what a VM has: memory, virtual CPUs, disks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

from twisted.internet.defer import Deferred

from fluidvm.api.snapshot_records import refuse_snapshots
from fluidvm.api.storage.disks import check_attachable
from fluidvm.api.vms.shares import put_shares
from fluidvm.driver import DomainDisk, DomainState, IConnection, IDisks, ILiveResize
from fluidvm.engine.job import Job
from fluidvm.inventory.ledger import can_get
from fluidvm.inventory.quota import check_vm
from fluidvm.model.declare import task
from fluidvm.model.faults import Conflict
from fluidvm.model.kinds import DiskId, MiB, Struct, Text, Vcpus, VmId
from fluidvm.model.objects import VM, Disk
from fluidvm.store.objects import Update

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
) -> None:
    record = job.inventory.get(VM, vm)
    # Up to its maximum it has been counted from the beginning.
    growth = amount - can_get(record)[what]
    if growth > 0:
        check_vm(job.inventory, record.owner, {f"vm_{what}": amount})
        await job.reserve(record.owner, **{what: growth})
    connection = await job.connection(record.compute_node)
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


LIVE = ((ILiveResize, "running VMs too"),)


@task("vm", optional_abilities=LIVE)
async def set_vm_memory(job: Job, vm: VmId, memory: MiB) -> None:
    """
    Give a VM another amount of memory.

    A running one has it at once, up to its max_memory and where its driver and guest can; else the task fails and says that
    it needs a stop. More than max_memory raises that, too; less doesn't lower it, and as max_memory is what counts, it frees
    nothing of the resource plan.
    """
    await _resize(job, vm, "memory", lambda node: node.set_memory, lambda node: node.resize_memory, memory)


@task("vm", optional_abilities=LIVE)
async def set_vm_vcpus(job: Job, vm: VmId, vcpus: Vcpus) -> None:
    """
    Give a VM another number of virtual CPUs.

    A running one has them at once, up to its max_vcpus and where its driver and guest can; else the task fails and says that
    it needs a stop. max_vcpus counts as max_memory does.
    """
    await _resize(job, vm, "vcpus", lambda node: node.set_vcpus, lambda node: node.resize_vcpus, vcpus)


@task("vm", needs=(IDisks,))
async def attach_disk(job: Job, vm: VmId, disk: DiskId, options: AttachOptions = {}) -> None:  # noqa: B006
    """Give a VM a disk: at once if it runs, and for its next starts."""
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
    job.put(Update("disk", disk, {"vm": vm, "target": target}), Update("vm", vm, {}))
    await put_shares(job, vm, plugged=True)


@task("vm", needs=(IDisks,))
async def detach_disk(job: Job, vm: VmId, disk: DiskId) -> None:
    """Take a disk from a VM: at once if it runs, when its guest lets go, and for its next starts. The disk stays."""
    record, volume = job.inventory.get(VM, vm), job.inventory.get(Disk, disk)
    if volume.vm != vm or volume.target is None:
        raise Conflict(f"Disk {volume.name} isn't attached to VM {record.name}.")
    connection = await job.connection(record.compute_node, IDisks)
    await refuse_snapshots(job, record, "they are partly stored in its disks")
    await connection.detach_disk(record.uuid, volume.target)
    job.put(Update("disk", disk, {"vm": None, "target": None}), Update("vm", vm, {}))
