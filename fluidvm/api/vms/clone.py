"""Copying VMs with their disks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any
from uuid import uuid4

from twisted.internet.defer import CancelledError

from fluidvm.access.call import Call
from fluidvm.api.placement import free_name, may_force, take_room
from fluidvm.api.storage.disks import new_disk
from fluidvm.api.storage.volumes import copy_volume
from fluidvm.api.vms.networks import check_networks, new_interface
from fluidvm.api.vms.shares import shares_of
from fluidvm.api.vms.vms import FORCE, disks_of, domain_spec, remove_made
from fluidvm.driver import IConnection, ITemplates, IVolumes
from fluidvm.engine.job import Job
from fluidvm.inventory.ledger import can_get
from fluidvm.inventory.quota import check_driver, check_vm, one_vm
from fluidvm.model.declare import task
from fluidvm.model.faults import Conflict, Unsupported
from fluidvm.model.kinds import Struct, VmId, named
from fluidvm.model.objects import VM, ComputeNode, Disk, vm_state
from fluidvm.store.objects import Create, Update

CloneName = Annotated[str, named("the new VM's name, unique among its owner's VMs")]


CloneOptions = Annotated[dict[str, Any], Struct("how to copy it", fields={"force": FORCE})]


def _check(call: Call, vm: int, name: str, options: Mapping[str, Any] = {}) -> None:
    may_force(call.user, options, "options")
    record = call.inventory.find(VM, vm)
    free_name(call.inventory, VM, name, call.user.id if record is None else record.owner)


@task("vm", creates=True, precheck=_check, optional_abilities=((IVolumes, "with disks"),))
async def clone_vm(job: Job, vm: VmId, name: CloneName, options: CloneOptions = {}) -> None:  # noqa: B006
    """
    Copy a VM that isn't running, with its disks. The copy has the same owner, is on the same compute node, and is stopped.

    Its interfaces are in the same networks and have new addresses. The compute node must have room for the copy, unless an
    administrator skips this check (force).

    The copy and its disks are stored before the hypervisor is asked. If the task fails, what was created is removed.
    """
    source = job.inventory.get(VM, vm)
    clone = job.inventory.find(VM, job.target)
    resumed = clone is not None
    if clone is None:
        clone = await _plan(job, source, name, may_force(job.user(), options, "options"))
    try:
        connection = await job.connection(clone.compute_node)
        if job.memo["copies"]:
            await job.connection(clone.compute_node, IVolumes)
        disks = job.inventory.disks_of(clone.id)
        for number, disk in enumerate(disks):
            if disk.state != "creating":
                continue
            job.status(f"copying disk {number + 1} of {len(disks)}")

            def progress(percentage: int, number: int = number) -> None:
                job.progress((100 * number + percentage) // len(disks))

            original = job.inventory.get(Disk, job.memo["copies"][str(disk.id)])
            await copy_volume(job, original, disk, progress, resumed)
        await job.flush()
        job.status(f"defining {clone.name}")
        await connection.define_domain(domain_spec(clone, disks_of(job, clone.id)))
    except CancelledError:
        raise  # the server stops: its next start resumes here
    except Exception:
        job.take_facts()
        await remove_made(job, clone, ())
        raise
    job.put(Update("vm", clone.id, vm_state("stopped")))


async def _plan(job: Job, source: VM, name: str, force: bool) -> VM:
    """Decide everything and make it durable."""
    owner = source.owner
    if source.powered or source.state not in ("stopped", "crashed"):
        raise Conflict(f"VM {source.name} is {source.state}: stop it first.")
    node = job.inventory.get(ComputeNode, source.compute_node)
    if source.template or (job.nodes.provides(node.id, ITemplates) and not job.nodes.provides(node.id, IVolumes)):
        raise Unsupported(f"VM {source.name} has a file system of its own, which driver {source.driver} can't copy.")
    if node.mode != "active":
        raise Conflict(f"Compute node {node.name} is in mode {node.mode}.")
    free_name(job.inventory, VM, name, owner)
    disks = job.inventory.disks_of(source.id)
    await job.connection(node.id, IVolumes if disks else IConnection)
    shares = await shares_of(job, owner, node.id)
    sizes = sum(disk.size for disk in disks)
    check_driver(job.inventory, owner, source.driver)
    check_vm(job.inventory, owner, {**one_vm(source), "vm_disk": sizes})
    names = [f"{name[:50]}-{disk.target}" for disk in disks]
    for disk_name in names:
        free_name(job.inventory, Disk, disk_name, owner)
    job.reserve_for(owner, vms=1, **can_get(source), disks=len(disks), disk_space=sizes)
    take_room(job, node.id, force, **can_get(source))
    check_networks(job, node, source.interfaces)
    # A MAC address belongs to one guest, and so does an IP address.
    plugs = [{key: one[key] for key in ("network", "model") if key in one} for one in source.interfaces]
    interfaces = tuple(new_interface(job, plug) for plug in plugs)
    clone = replace(
        source,
        id=job.target,
        name=name,
        state="creating",
        uuid=str(uuid4()),
        created=job.wall_clock(),
        domain="",
        powered=False,
        interfaces=interfaces,
        shares=shares,
        snapshots=(),
    )
    job.put(Create(clone))
    copies: dict[str, int] = {}
    for disk, disk_name in zip(disks, names, strict=True):
        spec = {"size": disk.size, "format": disk.format, "pool": disk.pool}
        copy = new_disk(job, spec, disk_name, owner, node, vm=clone.id, target=disk.target)
        copies[str(copy.id)] = disk.id
        job.put(Create(copy))
    job.memo["copies"] = copies
    await job.flush()
    job.unreserve()
    return clone
