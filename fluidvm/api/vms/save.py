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
    """Wait until a driver has done its work, and note what the VM is then."""
    try:
        await job.interruptible(work)
    except Exception as failed:
        await settle_after(job, record, failed)
    await settle(job, record)


@task("vm", needs=(ISave,))
async def save_vm(job: Job, vm: VmId) -> None:
    """
    Save a running VM's memory to its compute node's disk, and stop it: restore_vm has it go on from there.

    It counts as running no more. stop_vm throws away what was saved.
    """
    record = job.inventory.get(VM, vm)
    job.status(f"saving {record.name}")
    connection = await job.connection(record.compute_node, ISave)
    await _finish(job, record, connection.save(record.uuid, job.progress))


@task("vm", needs=(ISave,))
async def restore_vm(job: Job, vm: VmId) -> None:
    """Have a saved VM go on where it was saved."""
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
    """Reset a running VM, as by its machine's button: its guest isn't asked."""
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node, IReset)
    await connection.reset(record.uuid)
    await settle(job, record)
