"""Snapshots of VMs: made, gone back to, deleted, listed."""

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
from fluidvm.model.objects import VM, ComputeNode
from fluidvm.model.xmlvalue import Members
from fluidvm.store.objects import Update

FIELDS: dict[str, type] = {"id": int, "vm": int, "name": str, "running": bool, "created": datetime}
SnapshotName = Annotated[str, named("its name, unique among the VM's snapshots")]
SnapshotId = Annotated[int, Int("id of one of the VM's snapshots", low=1)]
SnapshotFilter = Annotated[dict[str, Any], filter_of(FIELDS)]
OFF = (DomainState.STOPPED, DomainState.CRASHED)


# Not looked at when it is called: the same batch may delete the one that has the name.
@task("vm", needs=(ISnapshots,))
async def create_vm_snapshot(job: Job, vm: VmId, name: SnapshotName) -> int:
    """
    Keep what a stopped or running VM is now under a name: its disks and, if it runs, its memory. The result is its id.

    A VM that runs stands still meanwhile. As long as it has snapshots it can't be moved, and its disks can't be resized,
    attached or detached. The snapshot is listed before the hypervisor is asked. If the compute node stops answering
    meanwhile, the task fails and it stays listed until the node is back and tells whether it was made.
    """
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node, ISnapshots)
    return await make(job, record, name, record.state == "running", lambda: connection.create_snapshot(record.uuid, name))


@task("vm", needs=(ISnapshots,), after_crash=AfterCrash.LOOK_AND_REPORT)
async def revert_vm_snapshot(job: Job, vm: VmId, snapshot: SnapshotId) -> None:
    """
    Make a stopped or running VM's disks and memory what they were. What it is now is lost, unless another snapshot has it.

    It is running afterwards if it ran when the snapshot was made, else stopped. Its definition stays as it is: amounts,
    interfaces, boot. Where it can't go on with that, because it had other disks then, or other amounts or interfaces while
    it ran, the task fails with fault 409 and says which; set_vm_memory and its like make it what it was.
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
    job.status(f"{record.name} goes back to snapshot {kept['name']}")
    try:
        await connection.revert_snapshot(record.uuid, kept["name"])
        if kept["running"] and job.nodes.provides(record.compute_node, IShares):
            # A guest that goes on is held to what its owner's plan said then.
            given = await shares_of(job, record.owner, record.compute_node)
            await (await job.connection(record.compute_node, IShares)).set_shares(record.uuid, Shares(**given))
            job.put(Update("vm", vm, {"shares": given}))
    except Exception as failed:
        await settle_after(job, record, failed)
    await _settle(job, record)


async def _settle(job: Job, vm: VM) -> None:
    """Note all of what the hypervisor says that the VM is now."""
    info = await job.domain(vm.compute_node, vm.uuid)
    fields = {
        "state": str(info.state),
        "vcpus": info.vcpus,
        "max_vcpus": info.max_vcpus,
        "memory": info.memory,
        "max_memory": info.max_memory,
    }
    job.put(Update("vm", vm.id, fields))


async def _interrupted(job: Job, vm: VM, kept: Mapping[str, Any], state: DomainState) -> None:
    """The server died meanwhile: to go back once more would lose what its guest has done since."""
    if state in OFF:
        # Perhaps in the middle of it: the definition is to be the one that is known here.
        connection = await job.connection(vm.compute_node)
        await connection.define_domain(domain_spec(vm, disks_of(job, vm.id)))
    await _settle(job, vm)
    raise Unavailable(
        f"The server was interrupted while VM {vm.name} was being reverted to snapshot {kept['name']}: check the VM, and "
        "revert it again if needed."
    )


@task("vm", needs=(ISnapshots,))
async def delete_vm_snapshot(job: Job, vm: VmId, snapshot: SnapshotId) -> None:
    """Delete a VM's snapshot, and free what it takes. The VM goes on as it is, and its other snapshots stay."""
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

    running tells whether a snapshot has the VM's memory, so that it runs when it has gone back to it. Those that others made
    on the compute node are among them, from its next reconnect or refresh on.
    """
    return listed(call.inventory.get(VM, vm), filter)
