"""Saving VMs' memory to disk, and resetting them."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from fluidvm.api.vms.power import mark, may_start, settle, settle_after
from fluidvm.driver import IReset, ISave
from fluidvm.engine.job import Job
from fluidvm.model.declare import AfterCrash, task
from fluidvm.model.kinds import VmId
from fluidvm.model.objects import VM


async def _finish(job: Job, record: VM, work: Deferred[None]) -> None:
    """Wait for a driver's operation, and record the VM's state afterwards."""
    try:
        await job.interruptible(work)
    except Exception as failed:
        await settle_after(job, record, failed)
    await settle(job, record)


@task("vm", needs=(ISave,))
async def save_vm(job: Job, vm: VmId) -> None:
    """
    Save the memory of a running VM to the disk of its compute node, and stop it. restore_vm continues it from there.

    A saved VM doesn't count as running. stop_vm discards the saved state.
    """
    record = job.inventory.get(VM, vm)
    job.status(f"saving {record.name}")
    connection = await job.connection(record.compute_node, ISave)
    await _finish(job, record, connection.save(record.uuid, job.progress))


@task("vm", needs=(ISave,))
async def restore_vm(job: Job, vm: VmId) -> None:
    """Continue a saved VM from the point at which it was saved."""
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node, ISave)
    await may_start(job, record)
    if not record.powered:
        job.reserve_for(record.owner, running_vms=1)
        await mark(job, record, "starting")
        job.unreserve()
    job.status(f"restoring {record.name}")
    await _finish(job, record, connection.restore(record.uuid, job.progress))


@task("vm", needs=(IReset,), after_crash=AfterCrash.REPORT)
async def reset_vm(job: Job, vm: VmId) -> None:
    """Reset a running VM, like the reset button of a machine. Its guest isn't asked."""
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node, IReset)
    await connection.reset(record.uuid)
    await settle(job, record)
