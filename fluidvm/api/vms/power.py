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
from fluidvm.model.objects import VM, ComputeNode, vm_state
from fluidvm.store.objects import Update

SHUTDOWN_TIMEOUT = 60
ASK_SOON, ASK_AGAIN = 2.0, 10.0
"""Seconds until a guest is asked again to shut down: after a failed request, and after a successful one."""
NOBODY = {
    DomainState.PAUSED: "resume_vm continues it",
    DomainState.SAVED: "restore_vm continues it, stop_vm discards the saved state",
    DomainState.CRASHED: "start_vm boots it, stop_vm removes what is left of it",
}
"""States in which no guest can be asked, and what the user can do instead."""
ShutdownTimeout = Annotated[
    int, Int(f"timeout for the guest to shut down; default: {SHUTDOWN_TIMEOUT}", unit="s", low=1, high=3600)
]


async def settle(job: Job, vm: VM) -> None:
    """Record the VM's state as its hypervisor reports it. @raise NotFound: it no longer exists, which is recorded, too."""
    try:
        info = await job.domain(vm.compute_node, vm.uuid)
    except NotFound:
        job.put(Update("vm", vm.id, vm_state("missing")))
        raise
    job.put(Update("vm", vm.id, vm_state(str(info.state))))


async def settle_after(job: Job, vm: VM, failed: Exception) -> NoReturn:
    """Record the VM's state after a failure, if the hypervisor can report it, and raise the failure again."""
    if not isinstance(failed, CancelledError):
        with suppress(Exception):
            await settle(job, vm)
    raise failed


async def _connection(job: Job, vm: int) -> tuple[VM, IConnection]:
    record = job.inventory.get(VM, vm)
    return record, await job.connection(record.compute_node)


async def mark(job: Job, vm: VM, state: str) -> None:
    """Store a transitional state before a long operation. It also tells, after a crash, that the task has started."""
    job.memo["marked"] = state
    job.put(Update("vm", vm.id, vm_state(state)))
    await job.flush()


async def may_start(job: Job, vm: VM) -> None:
    """
    Check that a VM may be started on its compute node. If not, record its state: a run before a crash may have marked it.

    @raise Conflict: its compute node is in mode maintenance.
    """
    node = job.inventory.get(ComputeNode, vm.compute_node)
    if node.mode == "maintenance":
        await settle_after(
            job, vm, Conflict(f"Compute node {node.name} is in mode maintenance: no VM can be started on it.")
        )


@task("vm", after_crash=AfterCrash.LOOK)
async def start_vm(job: Job, vm: VmId) -> None:
    """Start a VM. Does nothing if it is running."""
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
    Asks a guest to shut down, repeatedly: a guest that is booting may not react yet.

    @ivar refusal: why the last request failed; C{None}: it succeeded.
    """

    def __init__(self, job: Job, vm: VM) -> None:
        self.refusal: NotReady | None = None
        self._job = job
        self._vm = vm
        self._due = 0.0

    async def ask(self) -> None:
        """Ask. @raise DriverError: the request failed for another reason than that the guest isn't ready."""
        connection = await self._job.connection(self._vm.compute_node)
        try:
            await connection.shutdown(self._vm.uuid)
            self.refusal = None
        except NotReady as refusal:
            self.refusal = refusal
        self._due = self._job.clock.seconds() + (ASK_SOON if self.refusal else ASK_AGAIN)

    async def ask_again(self) -> None:
        """Ask if it is time. Errors are ignored: the caller looks at the VM's state."""
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
    Ask the guest to shut down, and wait until it has. The request is repeated, because the guest may be booting.

    If the guest doesn't shut down in time, it keeps running and the task fails.
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
    """Power off a VM without asking its guest. Does nothing if it is stopped."""
    record, connection = await _connection(job, vm)
    await connection.stop(record.uuid)
    await settle(job, record)


@task("vm", after_crash=AfterCrash.REPORT)
async def reboot_vm(job: Job, vm: VmId) -> None:
    """Ask the guest to reboot, without waiting until it has."""
    record, connection = await _connection(job, vm)
    await connection.reboot(record.uuid)
    await settle(job, record)


@task("vm")
async def pause_vm(job: Job, vm: VmId) -> None:
    """Pause a running VM. It stays in memory."""
    record, connection = await _connection(job, vm)
    await connection.pause(record.uuid)
    await settle(job, record)


@task("vm")
async def resume_vm(job: Job, vm: VmId) -> None:
    """Resume a paused VM."""
    record, connection = await _connection(job, vm)
    await connection.resume(record.uuid)
    await settle(job, record)
