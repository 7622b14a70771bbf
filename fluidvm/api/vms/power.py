"""Starting and stopping VMs."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, NoReturn

from twisted.internet.defer import CancelledError

from fluidvm.driver import DomainState, DriverError, IConnection, NotReady
from fluidvm.engine.job import Job
from fluidvm.model.declare import AfterCrash, task
from fluidvm.model.faults import Conflict, NotFound
from fluidvm.model.kinds import Int, VmId
from fluidvm.model.objects import VM, ComputeNode
from fluidvm.store.objects import Update

SHUTDOWN_TIMEOUT = 60
ASK_SOON, ASK_AGAIN = 2.0, 10.0
"""Seconds until a guest is asked again to shut down: one that couldn't be asked, and one that was but is still up."""
NOBODY = {
    DomainState.PAUSED: "resume_vm continues it",
    DomainState.SAVED: "restore_vm continues it, stop_vm discards the saved state",
    DomainState.CRASHED: "start_vm boots it, stop_vm removes what is left of it",
}
"""States in which there is no guest to ask, and what can be done instead."""
ShutdownTimeout = Annotated[int, Int("how long the guest may take", unit="s", low=1, high=3600)]


async def settle(job: Job, vm: VM) -> None:
    """Note what the hypervisor says that the VM is now. @raise NotFound: it isn't there any more, which is noted, too."""
    try:
        info = await job.domain(vm.compute_node, vm.uuid)
    except NotFound:
        job.put(Update("vm", vm.id, {"state": "missing"}))
        raise
    job.put(Update("vm", vm.id, {"state": str(info.state)}))


async def settle_after(job: Job, vm: VM, failed: Exception) -> NoReturn:
    """Note what the VM is after a failure, where that can be told, and raise the failure on."""
    if not isinstance(failed, CancelledError):
        with suppress(Exception):
            await settle(job, vm)
    raise failed


async def _connection(job: Job, vm: int) -> tuple[VM, IConnection]:
    record = job.inventory.get(VM, vm)
    return record, await job.connection(record.compute_node)


async def mark(job: Job, vm: VM, state: str) -> None:
    """Show that something that takes its time is under way; a server that dies meanwhile knows that the task has begun."""
    job.memo["marked"] = state
    job.put(Update("vm", vm.id, {"state": state}))
    await job.flush()


async def may_start(job: Job, vm: VM) -> None:
    """
    Check that something may be started where a VM is. If not, note what the VM is: a run before a crash may have marked it.

    @raise Conflict: its compute node is in mode maintenance.
    """
    node = job.inventory.get(ComputeNode, vm.compute_node)
    if node.mode == "maintenance":
        await settle_after(
            job, vm, Conflict(f"Compute node {node.name} is in mode maintenance: no VM can be started on it.")
        )


@task("vm", after_crash=AfterCrash.LOOK)
async def start_vm(job: Job, vm: VmId) -> None:
    """Boot a VM. One that runs is left as it is."""
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node)
    if record.state == "running" and (await job.domain(record.compute_node, record.uuid)).state is DomainState.RUNNING:
        return
    if record.state == "saved":
        raise Conflict(f"VM {record.name} is saved: restore_vm continues it, stop_vm discards the saved state.")
    await may_start(job, record)
    if not record.powered:
        job.reserve_for(record.owner, running_vms=1)
    await mark(job, record, "starting")
    job.unreserve()
    job.status(f"starting {record.name}")
    try:
        await connection.start(record.uuid)
    except Exception as failed:
        await settle_after(job, record, failed)
    await settle(job, record)


class _Asking:
    """
    Asks a guest to shut down, and asks again: one that boots may not listen yet.

    @ivar refusal: why it couldn't be asked the last time; C{None}: it was asked.
    """

    def __init__(self, job: Job, vm: VM) -> None:
        self.refusal: NotReady | None = None
        self._job = job
        self._vm = vm
        self._due = 0.0

    async def ask(self) -> None:
        """Ask. @raise DriverError: that failed otherwise than because the guest isn't ready."""
        connection = await self._job.connection(self._vm.compute_node)
        try:
            await connection.shutdown(self._vm.uuid)
            self.refusal = None
        except NotReady as refusal:
            self.refusal = refusal
        self._due = self._job.clock.seconds() + (ASK_SOON if self.refusal else ASK_AGAIN)

    async def ask_again(self) -> None:
        """Ask, if it is time. What fails is told by what the VM is then."""
        if self._job.clock.seconds() >= self._due:
            with suppress(DriverError):
                await self.ask()


@task("vm")
async def shutdown_vm(
    job: Job,
    vm: VmId,
    timeout: ShutdownTimeout = SHUTDOWN_TIMEOUT,
) -> None:
    """
    Ask the guest to shut down, and wait for it; while it is up it is asked again, for it may have been booting.

    One that doesn't obey in time runs on, and the task fails saying so.
    """
    record = job.inventory.get(VM, vm)
    await job.connection(record.compute_node)
    state = (await job.domain(record.compute_node, record.uuid)).state
    if state in NOBODY:
        raise Conflict(f"VM {record.name} is {state}: {NOBODY[state]}.")
    asking = _Asking(job, record)
    try:
        await asking.ask()
        await mark(job, record, "stopping")
        job.status(f"waiting for {record.name} to shut down")
        await job.until_state(
            record.compute_node,
            record.uuid,
            DomainState.STOPPED,
            timeout,
            f"VM {record.name} didn't shut down within {timeout} s; its guest doesn't react: use stop_vm to power it off.",
            asking.ask_again,
        )
    except Exception as failed:
        late = isinstance(failed, Conflict) and not job.cancelled
        await settle_after(job, record, asking.refusal if asking.refusal and late else failed)
    await settle(job, record)


@task("vm")
async def stop_vm(job: Job, vm: VmId) -> None:
    """Pull a VM's plug. One that is stopped is left as it is."""
    record, connection = await _connection(job, vm)
    await connection.stop(record.uuid)
    await settle(job, record)


@task("vm", after_crash=AfterCrash.REPORT)
async def reboot_vm(job: Job, vm: VmId) -> None:
    """Ask the guest to reboot; doesn't wait for it to be back."""
    record, connection = await _connection(job, vm)
    await connection.reboot(record.uuid)
    await settle(job, record)


@task("vm")
async def pause_vm(job: Job, vm: VmId) -> None:
    """Freeze a running VM in memory."""
    record, connection = await _connection(job, vm)
    await connection.pause(record.uuid)
    await settle(job, record)


@task("vm")
async def resume_vm(job: Job, vm: VmId) -> None:
    """Let a paused VM go on."""
    record, connection = await _connection(job, vm)
    await connection.resume(record.uuid)
    await settle(job, record)
