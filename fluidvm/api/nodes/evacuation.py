"""Evacuating compute nodes."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from fluidvm.api.placement import fit
from fluidvm.api.vms.migration import MEMO, move
from fluidvm.api.vms.vms import largest_pool
from fluidvm.driver import IDisks, IMigration, INetworks, Interface, Progress
from fluidvm.engine.errors import fault_of
from fluidvm.engine.job import Job
from fluidvm.engine.placement import Wanted
from fluidvm.inventory.ledger import can_get
from fluidvm.model.declare import AfterCrash, task
from fluidvm.model.faults import Conflict, sentence
from fluidvm.model.kinds import NodeId
from fluidvm.model.objects import VM, ComputeNode
from fluidvm.store.objects import Update

MOST_TOLD = 20
"""Number of VMs that an error names."""
MOST_WORDS = 300
"""Number of characters of the reason for each of them."""


@task("compute_node", roles=("admin",), needs=(IMigration,), after_crash=AfterCrash.LOOK)
async def evacuate_compute_node(job: Job, node: NodeId) -> int:
    """
    Move every VM of a compute node, with its disks, to other nodes of the same driver. Running VMs are moved live if the
    driver can do that. The result is the number of moved VMs.

    An active node is cordoned first, so that nothing new is placed on it, and remains cordoned. Each VM is placed like a new
    one. Resource plans aren't checked, because nothing grows. VMs are moved one after the other; each waits for earlier
    tasks that use it. A VM that can't be moved stays as it is. When all others have moved, the task fails and says which VMs
    stayed and why. If another task sets the node to active between two moves, the evacuation fails and says how many VMs
    have moved. If it is cancelled, the VM that is being moved stays on the node, and VMs that have moved stay where they
    are. Detached disks stay on the node.
    """
    record = job.inventory.get(ComputeNode, node)
    if "moved" not in job.memo:  # a resumed run doesn't cordon again: an administrator may have changed the mode on purpose
        job.memo.update(moved=[], stayed={})
        if record.mode == "active":
            job.put(Update("compute_node", node, {"mode": "cordoned"}))
            await job.flush()
    if "from" not in job.memo:  # else a move that has started must be finished or reported first
        await job.connection(node, IMigration)
    job.leavable()
    moved, stayed = job.memo["moved"], job.memo["stayed"]
    while True:
        waiting = [vm.id for vm in job.inventory.vms_on(node) if str(vm.id) not in stayed]
        # A move that an interrupted run has started may already have reached the other node.
        under_way = job.memo["vm"] if "from" in job.memo else None
        if under_way is None and not waiting:
            break
        id = min(waiting) if under_way is None else under_way
        before = len({*map(str, moved), *stayed})
        total = before + max(1, len(waiting))
        if under_way is None:
            job.progress(100 * before // total)
            await job.hold(("vm", id))
        if job.cancelled:
            raise Conflict("cancelled")
        if under_way is None:
            _check_mode(job, node)

        def progress(percentage: int, before: int = before, total: int = total) -> None:
            job.progress((100 * before + percentage) // total)

        await _move(job, node, id, progress)
    if stayed:
        raise Conflict(_words(job, record))
    return len(moved)


def _check_mode(job: Job, node: int) -> None:
    """
    Check that the node still takes nothing new: another task may have changed its mode while this one waited for a VM.

    @raise Conflict: it is active. Its VMs could then be placed on the node itself, again and again.
    """
    record = job.inventory.find(ComputeNode, node)
    if record is not None and record.mode == "active":
        raise Conflict(
            f"Compute node {record.name} was set to active again during its evacuation: evacuate it again to move its other "
            f"VMs (moved so far: {len(job.memo['moved'])})."
        )


async def _move(job: Job, node: int, id: int, progress: Progress) -> None:
    """Move one VM, or note why it stayed. It may have been deleted or moved meanwhile."""
    memo = job.memo
    vm = job.inventory.find(VM, id)
    if vm is None or ("from" not in memo and vm.compute_node != node):
        # Without this, a VM that was deleted during its move would be tried again forever, blocking the reactor.
        for key in MEMO:
            memo.pop(key, None)
        return
    try:
        if "from" not in memo:
            memo["vm"] = id
            memo["to"] = (await _target(job, vm)).id
        await move(job, id, memo["to"], {"live": True, "copy_storage": True}, progress)
    except CancelledError:
        raise  # the server stops: its next start resumes here
    except Exception as error:
        if job.cancelled:
            raise
        words = fault_of(error, "evacuate_compute_node").faultString
        memo["stayed"][str(id)] = sentence(f"{vm.name} ({id}): {words[:MOST_WORDS]}")
    if (now := job.inventory.find(VM, id)) is not None and now.compute_node != node:
        memo["moved"].append(id)
    for key in MEMO:
        memo.pop(key, None)
    job.unreserve()
    await job.flush()


async def _target(job: Job, vm: VM) -> ComputeNode:
    """Choose the compute node for a VM. @raise Unavailable: none is suitable; says why."""
    disks = job.inventory.disks_of(vm.id)
    pool, space = largest_pool({"pool": disk.pool, "size": disk.size} for disk in disks)
    most = can_get(vm)
    wanted = Wanted(most["vcpus"], most["memory"], driver=vm.driver, pool=pool, space=space)
    abilities: list[type[Interface]] = [IMigration, *([IDisks] if disks else []), *([INetworks] if vm.interfaces else [])]
    return await fit(job, wanted, abilities)


def _words(job: Job, node: ComputeNode) -> str:
    moved, trouble = job.memo["moved"], job.memo["stayed"]
    told = list(trouble.values())
    more = f" And {len(told) - MOST_TOLD} more." if len(told) > MOST_TOLD else ""
    there = sum(id not in moved for id in map(int, trouble))
    return f"{there} of {len(moved) + there} VMs stayed on compute node {node.name}. {' '.join(told[:MOST_TOLD])}{more}"
