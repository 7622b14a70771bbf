"""Creating, reverting to, deleting and listing snapshots of VMs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.snapshot_records import listed, look, make, snapshot_of
from fluidvm.api.vms.power import mark, settle_after
from fluidvm.api.vms.shares import shares_of
from fluidvm.api.vms.vms import disks_of, domain_spec
from fluidvm.driver import DomainState, IShares, ISnapshots, Shares
from fluidvm.engine.job import Job
from fluidvm.model.declare import AfterCrash, query, task
from fluidvm.model.faults import Conflict, Unavailable
from fluidvm.model.kinds import Int, VmId, filter_of, named
from fluidvm.model.objects import VM, ComputeNode, vm_state
from fluidvm.model.xmlvalue import Members
from fluidvm.store.objects import Update

FIELDS: dict[str, type] = {"id": int, "vm": int, "name": str, "running": bool, "created": datetime}
SnapshotName = Annotated[str, named("the snapshot's name, unique among the VM's snapshots")]
SnapshotId = Annotated[int, Int("id of one of the VM's snapshots", low=1)]
SnapshotFilter = Annotated[dict[str, Any], filter_of(FIELDS)]
OFF = (DomainState.STOPPED, DomainState.CRASHED)


# The name isn't checked at the time of the call: a pending task may delete the snapshot that has it.
@task("vm", needs=(ISnapshots,))
async def create_vm_snapshot(job: Job, vm: VmId, name: SnapshotName) -> int:
    """
    Create a snapshot of a stopped or running VM: of its disks and, if it is running, its memory. The result is its id.

    A running VM is suspended while its snapshot is created. While a VM has snapshots, it can't be moved, and its disks can't
    be resized, attached or detached. The snapshot is listed before the hypervisor creates it. If the compute node stops
    answering meanwhile, the task fails. The snapshot then stays listed until the node is back and reports whether it exists.
    """
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node, ISnapshots)
    return await make(job, record, name, record.state == "running", lambda: connection.create_snapshot(record.uuid, name))


@task("vm", needs=(ISnapshots,), after_crash=AfterCrash.LOOK_AND_REPORT)
async def revert_vm_snapshot(job: Job, vm: VmId, snapshot: SnapshotId) -> None:
    """
    Revert a stopped or running VM to a snapshot. The current content of its disks and memory is lost, unless another
    snapshot contains it.

    Afterwards the VM is running if it was running when the snapshot was created, otherwise stopped. Its definition (memory,
    virtual CPUs, interfaces, boot) stays as it is. If the snapshot doesn't fit this definition, because the VM had other
    disks or, while running, another amount of memory or CPUs or other interfaces, the task fails with fault 409 and names
    the difference. Undo the difference first, for example with set_vm_memory.
    """
    record = job.inventory.get(VM, vm)
    kept = snapshot_of(record, snapshot)
    connection = await job.connection(record.compute_node, ISnapshots)
    state = (await job.domain(record.compute_node, record.uuid)).state
    if job.memo.get("asked"):
        await _interrupted(job, record, kept, state)
    if state is not DomainState.RUNNING and state not in OFF:
        raise Conflict(f"VM {record.name} is {state}: only a running or stopped VM can be reverted.")
    if kept["running"]:
        node = job.inventory.get(ComputeNode, record.compute_node)
        if node.mode == "maintenance" and state in OFF:
            raise Conflict(f"Compute node {node.name} is in mode maintenance: no VM can be started on it.")
        if not record.powered:
            job.reserve_for(record.owner, running_vms=1)
    job.memo["asked"] = True
    if kept["running"] or record.powered:
        await mark(job, record, "starting" if kept["running"] else "stopping")
    else:
        await job.flush()
    job.unreserve()
    job.status(f"reverting {record.name} to snapshot {kept['name']}")
    try:
        await connection.revert_snapshot(record.uuid, kept["name"])
        if kept["running"] and job.nodes.provides(record.compute_node, IShares):
            # A guest that continues has the limits that its owner's plan set when the snapshot was created.
            given = await shares_of(job, record.owner, record.compute_node)
            await (await job.connection(record.compute_node, IShares)).set_shares(record.uuid, Shares(**given))
            job.put(Update("vm", vm, {"shares": given}))
    except Exception as failed:
        await settle_after(job, record, failed)
    await _settle(job, record)


async def _settle(job: Job, vm: VM) -> None:
    """Record the VM's state and amounts as its hypervisor reports them."""
    info = await job.domain(vm.compute_node, vm.uuid)
    fields = {
        **vm_state(str(info.state)),
        "vcpus": info.vcpus,
        "max_vcpus": info.max_vcpus,
        "memory": info.memory,
        "max_memory": info.max_memory,
    }
    job.put(Update("vm", vm.id, fields))


async def _interrupted(job: Job, vm: VM, kept: Mapping[str, Any], state: DomainState) -> None:
    """The server died during a revert: repeating it would lose what the guest has done since."""
    if state in OFF:
        # The revert may have stopped halfway: restore the definition that the server knows.
        connection = await job.connection(vm.compute_node)
        await connection.define_domain(domain_spec(vm, disks_of(job, vm.id)))
    await _settle(job, vm)
    raise Unavailable(
        f"The server was interrupted while VM {vm.name} was being reverted to snapshot {kept['name']}: check the VM, and "
        "revert it again if needed."
    )


@task("vm", needs=(ISnapshots,))
async def delete_vm_snapshot(job: Job, vm: VmId, snapshot: SnapshotId) -> None:
    """Delete a snapshot of a VM, and free its space. The VM and its other snapshots aren't affected."""
    record = job.inventory.get(VM, vm)
    kept = snapshot_of(record, snapshot)
    connection = await job.connection(record.compute_node, ISnapshots)
    job.status(f"deleting snapshot {kept['name']} of {record.name}")
    await connection.delete_snapshot(record.uuid, kept["name"])
    await look(job, record)


@query("array")
def list_vm_snapshots(call: Call, vm: VmId, filter: SnapshotFilter = {}) -> Members:  # noqa: B006
    """
    List a VM's snapshots: structs of id, vm, name, running and created.

    running says whether a snapshot contains the VM's memory, so that the VM is running after a revert. Snapshots that were
    created directly on the compute node appear after the node's next reconnect or refresh.
    """
    return listed(call.inventory.get(VM, vm), filter)
