"""Moving VMs to another compute node."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any
from uuid import uuid4

from twisted.internet.defer import CancelledError

from fluidvm.access.call import Call
from fluidvm.api.placement import may_force, take_room
from fluidvm.api.snapshot_records import refuse_snapshots
from fluidvm.api.vms.networks import check_networks
from fluidvm.api.vms.power import mark, settle
from fluidvm.api.vms.vms import FORCE, check_boot, domain_spec
from fluidvm.driver import DomainDisk, IDisks, IMigration, NoSuchThing, Progress
from fluidvm.engine.job import Job
from fluidvm.inventory.ledger import can_get
from fluidvm.model.declare import AfterCrash, task
from fluidvm.model.faults import Conflict, NotFound, Unavailable, sentence
from fluidvm.model.kinds import Bool, NodeId, Struct, VmId
from fluidvm.model.objects import VM, ComputeNode, Disk, vm_state
from fluidvm.store.objects import Update

MOVABLE = ("stopped", "crashed", "running")
MEMO = ("from", "live", "volumes", "old", "paths")
"""The keys of the memo that describe a move in progress."""
Options = Annotated[
    dict[str, Any],
    Struct(
        "how to move it",
        fields={
            "live": Bool("move the VM while it is running; default: a running VM isn't moved"),
            "copy_storage": Bool("copy the content of its disks; default: a VM with disks isn't moved"),
            "force": FORCE,
        },
    ),
]


def _check(call: Call, vm: int, node: int, options: Mapping[str, Any] = {}) -> None:
    may_force(call.user, options, "options")


@task("vm", needs=(IMigration,), after_crash=AfterCrash.LOOK, precheck=_check)
async def migrate_vm(job: Job, vm: VmId, node: NodeId, options: Options = {}) -> None:  # noqa: B006
    """
    Move a VM with its disks to another compute node of the same driver, either stopped or, if the driver supports it, live.
    The other node must have room for it, unless an administrator skips this check (force).

    The names of the new volumes are stored before the hypervisors are asked. If the task fails or is cancelled, the VM is
    where it was, and nothing is left on the other node. After a successful move, the old volumes are removed.
    """
    await move(job, vm, node, options, job.progress)


async def move(job: Job, vm: int, node: int, options: Mapping[str, Any], progress: Progress) -> None:
    """
    Move a VM, or resume a move. Its progress is in the memo, under the keys in L{MEMO}.

    @raise ApiFault: the move failed, and the VM is where it was; the same holds for C{DriverError}.
    """
    record = job.inventory.get(VM, vm)
    if "from" not in job.memo:
        if record.compute_node == node:
            return
        await _plan(job, record, node, options)
    elif record.compute_node != node:
        job.reserve_on(node, vms=1, **can_get(record))
    if record.compute_node != node:
        live = job.memo["live"]
        if live:
            await mark(job, record, "migrating")
        try:
            await _move(job, record, node, live, progress)
        except CancelledError:
            raise  # the server stops: its next start resumes here
        except Exception as failed:
            if not await _arrived(job, record, node):
                await _undo(job, record, node, failed)
                raise
        await _arrive(job, record, node)
    await _remove_old(job, record)


async def _plan(job: Job, vm: VM, node: int, options: Mapping[str, Any]) -> None:
    """Check everything, and store the names of the new volumes."""
    source, target = job.inventory.get(ComputeNode, vm.compute_node), job.inventory.get(ComputeNode, node)
    disks = job.inventory.disks_of(vm.id)
    if target.driver != vm.driver:
        raise Conflict(f"Compute node {target.name} has driver {target.driver}, but VM {vm.name} needs driver {vm.driver}.")
    if target.mode != "active":
        raise Conflict(f"Compute node {target.name} is in mode {target.mode}.")
    if vm.state not in MOVABLE:
        raise Conflict(f"VM {vm.name} is {vm.state}: only a stopped or running VM can be moved.")
    for id in (source.id, target.id):
        await job.connection(id, IMigration)
        if disks:
            await job.connection(id, IDisks)
    connection = await job.connection(source.id, IMigration)
    if vm.powered and not options.get("live"):
        raise Conflict(f"VM {vm.name} is running: stop it first, or set live to move it while it runs.")
    if vm.powered and not connection.migrates_live:
        raise Conflict(f"Driver {vm.driver} can't move running VMs: stop VM {vm.name} first.")
    if disks and not options.get("copy_storage"):
        raise Conflict(f"VM {vm.name} has disks on compute node {source.name}: set copy_storage to copy them.")
    await refuse_snapshots(job, vm, "they can't be moved with it")
    for disk in disks:
        await refuse_snapshots(job, disk, f"they can't be moved with VM {vm.name}")
    formats = job.nodes.formats(node) if disks else ()
    for disk in disks:
        if disk.state != "ready":
            raise Conflict(f"Disk {disk.name} is {disk.state}.")
        if disk.format not in formats:
            raise Conflict(f"Compute node {target.name} doesn't support format {disk.format}, which disk {disk.name} has.")
    check_networks(job, target, vm.interfaces)
    check_boot(job, target, dict(vm.boot))
    job.unreserve()  # what placement reserved for it
    take_room(job, node, may_force(job.user(), options, "options"), **can_get(vm))
    job.reserve_on(node, vms=1)
    job.memo["from"] = source.id
    job.memo["live"] = vm.powered
    job.memo["volumes"] = {str(disk.id): f"{disk.name}-{uuid4().hex[:12]}" for disk in disks}
    job.memo["old"] = [[disk.pool, disk.volume] for disk in disks]
    await job.flush()


def _new_disks(job: Job, vm: VM, node: int) -> list[Disk]:
    """Return the VM's disks as they will be on the other node. Their paths aren't known yet."""
    names = job.memo["volumes"]
    disks = job.inventory.disks_of(vm.id)
    return [replace(disk, compute_node=node, volume=names[str(disk.id)], path="") for disk in disks]


async def _move(job: Job, vm: VM, node: int, live: bool, progress: Progress) -> None:
    source, target = await job.connection(vm.compute_node, IMigration), await job.connection(node, IMigration)
    disks = _new_disks(job, vm, node)
    if not await _knows(job, node, vm):
        for disk in disks:
            # An interrupted run may have left an incomplete copy, and the target of a copy must be a new volume.
            await (await job.connection(node, IDisks)).delete_volume(disk.pool, disk.volume)
    attached = []
    for disk in disks:
        job.status(f"creating disk {disk.name} on the other compute node")
        volumes = await job.connection(node, IDisks)
        volume = await job.interruptible(
            volumes.create_volume(disk.pool, disk.volume, disk.size, disk.format, lambda percentage: None)
        )
        attached.append(DomainDisk(volume.path, disk.format, str(disk.target)))
    job.memo["paths"] = {str(disk.id): new.path for disk, new in zip(disks, attached, strict=True)}
    await job.flush()
    job.status(f"moving {vm.name}")
    await job.interruptible(source.migrate(domain_spec(vm, attached), target, live, bool(disks), progress))


async def _knows(job: Job, node: int, vm: VM) -> bool:
    try:
        await (await job.connection(node)).get_domain(vm.uuid)
    except NoSuchThing:
        return False
    return True


async def _arrived(job: Job, vm: VM, node: int) -> bool:
    """Tell whether, in spite of a failure, the VM is on the other node and no longer on its own."""
    with suppress(Exception):
        return await _knows(job, node, vm) and not await _knows(job, vm.compute_node, vm)
    return False


async def _undo(job: Job, vm: VM, node: int, failed: Exception) -> None:
    """Remove everything from the other node, and record the VM's state. @raise Unavailable: the removal failed."""
    job.take_facts()
    with suppress(Exception):
        await settle(job, vm)
    disks = _new_disks(job, vm, node)
    try:
        if await _knows(job, vm.compute_node, vm):
            await (await job.connection(node)).undefine_domain(vm.uuid)
        for disk in disks:
            with suppress(NoSuchThing):
                await (await job.connection(node, IDisks)).delete_volume(disk.pool, disk.volume)
    except Exception as error:
        name = job.inventory.get(ComputeNode, node).name
        left = ", ".join(f"{disk.pool}/{disk.volume}" for disk in disks) or vm.domain_name
        raise Unavailable(
            f"{sentence(str(failed))} Cleaning up on compute node {name} failed, and {left} may be left there: "
            f"{sentence(str(error))}"
        ) from failed


async def _arrive(job: Job, vm: VM, node: int) -> None:
    """Record in one transaction that the VM and its disks are on the other node."""
    try:
        state = str((await job.domain(node, vm.uuid)).state)
    except (NotFound, Unavailable):
        state = vm.state
    job.put(Update("vm", vm.id, {"compute_node": node, **vm_state(state)}))
    for disk in _new_disks(job, vm, node):
        fields = {"compute_node": node, "volume": disk.volume, "path": job.memo["paths"][str(disk.id)]}
        job.put(Update("disk", disk.id, fields))
    await job.flush()
    job.unreserve()


async def _remove_old(job: Job, vm: VM) -> None:
    """Remove the VM's old volumes. @raise Unavailable: that failed; says which may be left."""
    old = job.memo["old"]
    if not old:
        return
    node = job.inventory.get(ComputeNode, job.memo["from"])
    job.status("removing the old volumes")
    try:
        connection = await job.connection(node.id, IDisks)
        for pool, name in old:
            with suppress(NoSuchThing):
                await connection.delete_volume(pool, name)
    except CancelledError:
        raise
    except Exception as error:
        left = ", ".join(f"{pool}/{name}" for pool, name in old)
        raise Unavailable(
            f"VM {vm.name} was moved, but some of its old volumes on compute node {node.name} ({left}) may be left: "
            f"{sentence(str(error))}"
        ) from error
