"""Applying the CPU shares and rate limits of resource plans to VMs, on hypervisors that support them."""

from __future__ import annotations

from fluidvm.driver import IShares, Shares
from fluidvm.engine.job import Job
from fluidvm.inventory.quota import limits_of
from fluidvm.model.objects import VM
from fluidvm.store.objects import Update

SHARES = ("cpu_shares", "disk_iops", "disk_mbps", "network_mbps")


async def shares_of(job: Job, owner: int, node: int) -> dict[str, int]:
    """Return the shares and rates for a user's VM: those in the user's resource plan now that the compute node supports."""
    limits = limits_of(job.inventory, owner)
    asked = {name: int(limits[name]) for name in SHARES if name in limits}
    if not asked or not job.nodes.provides(node, IShares):
        return {}
    can = await (await job.connection(node, IShares)).shareable()
    return {name: value for name, value in asked.items() if name in can}


async def put_shares(job: Job, vm: int, plugged: bool) -> None:
    """
    Apply the shares and rates of its owner's current resource plan to a VM that has grown.

    @param plugged: a disk or an interface was attached, to which no limits apply yet.
    """
    record = job.inventory.get(VM, vm)
    given = await shares_of(job, record.owner, record.compute_node)
    if given == record.shares and not (plugged and given):
        return
    connection = await job.connection(record.compute_node, IShares)
    await connection.set_shares(record.uuid, Shares(**given))
    job.put(Update("vm", vm, {"shares": given}))
