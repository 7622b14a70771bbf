"""What a resource plan says of each VM's shares and rates, handed to the hypervisors that can hold VMs to it."""

from __future__ import annotations

from fluidvm.driver import IShares, Shares
from fluidvm.engine.job import Job
from fluidvm.inventory.quota import limits_of
from fluidvm.model.objects import VM
from fluidvm.store.objects import Update

SHARES = ("cpu_shares", "disk_iops", "disk_mbps", "network_mbps")


async def shares_of(job: Job, owner: int, node: int) -> dict[str, int]:
    """Tell what a user's VM on a compute node is to be held to: what the resource plan says now, as far as the host can."""
    limits = limits_of(job.inventory, owner)
    asked = {name: int(limits[name]) for name in SHARES if name in limits}
    if not asked or not job.nodes.provides(node, IShares):
        return {}
    can = await (await job.connection(node, IShares)).shareable()
    return {name: value for name, value in asked.items() if name in can}


async def put_shares(job: Job, vm: int, plugged: bool) -> None:
    """
    Hold a VM that has grown to what its owner's resource plan says now.

    @param plugged: it has got a disk or an interface, which isn't held to anything yet.
    """
    record = job.inventory.get(VM, vm)
    given = await shares_of(job, record.owner, record.compute_node)
    if given == record.shares and not (plugged and given):
        return
    connection = await job.connection(record.compute_node, IShares)
    await connection.set_shares(record.uuid, Shares(**given))
    job.put(Update("vm", vm, {"shares": given}))
