"""Taking over guests that FluidVM didn't create."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fluidvm import driver
from fluidvm.driver import Boot, DomainDisk, DomainInfo, DomainSpec, IAdoption, ISnapshots, NoSuchThing, Snapshot, Volume
from fluidvm.engine.job import Job
from fluidvm.inventory.inventory import Inventory
from fluidvm.inventory.ledger import can_get
from fluidvm.inventory.quota import check_driver, check_vm, one_vm
from fluidvm.model.declare import task
from fluidvm.model.faults import Conflict, NotFound, Unsupported
from fluidvm.model.kinds import NAME_PATTERN, Id, NodeId, Text
from fluidvm.model.objects import POWERED, VM, ComputeNode, Disk, User, vm_state
from fluidvm.nodes.reconcile import snapshot_records
from fluidvm.store.objects import Create, Update

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
GuestUuid = Annotated[
    str, Text("UUID of the guest, from list_foreign_vms", longest=36, pattern=UUID, rule="a UUID in lower case")
]
Owner = Annotated[int, Id("the owner of the new VM", type="user")]
TARGET = "vd[a-x]"


@task("vm", creates=True, roles=("admin",), exclusive="adopt", needs=(IAdoption,))
async def adopt_vm(job: Job, node: NodeId, uuid: GuestUuid, owner: Owner) -> None:
    """
    Take over a guest that FluidVM didn't create, running or stopped, with its disks, within the resource plan of its owner.

    The guest isn't changed: its name and its definition on the host stay as they are. The room of its compute node isn't
    checked, because the guest already uses it. The VM gets the name that the guest has on the host, if that is a valid and
    free name, otherwise a similar one. Its disks are named after the VM.

    If the guest has anything that would be lost when FluidVM defines it again later, the task fails with fault 501 and names
    it: disks that aren't files of a storage pool, devices of the host, interfaces outside the host's networks, other
    firmware or another machine type. Graphics, sound and the CPU model are lost when FluidVM defines the guest again.
    """
    record = job.inventory.get(ComputeNode, node)
    connection, guests = await job.connection(node), await job.connection(node, IAdoption)
    vm = job.inventory.find(VM, job.target)
    if vm is None:
        try:
            spec = await guests.get_spec(uuid)
            info = await connection.get_domain(uuid)
            others = [one for one in await connection.list_domains() if one.uuid != uuid]
            kept: Sequence[Snapshot] = ()
            if job.nodes.provides(node, ISnapshots):
                kept = await (await job.connection(node, ISnapshots)).list_snapshots(uuid)
        except NoSuchThing:
            raise NotFound(f"Compute node {record.name} has no guest {uuid}.") from None
        volumes = [await _volume(connection, spec, disk) for disk in spec.disks]
        vm = _plan(job, record, owner, spec, info, volumes, others, kept)
        await job.flush()
        job.unreserve()
    # The guest may have stopped or started before its events were assigned to this VM.
    state = str((await job.domain(node, uuid)).state)
    job.put(Update("vm", vm.id, vm_state(state)))


async def _volume(connection: Any, spec: DomainSpec, disk: DomainDisk) -> Volume:
    try:
        volume: Volume = await connection.volume_of(disk.path, disk.format)
    except (NoSuchThing, driver.Unsupported) as error:
        raise Unsupported(f"Domain {spec.name} can't be taken over: its disk {disk.target}: {error}") from None
    if re.fullmatch(TARGET, disk.target) is None:
        raise Unsupported(f"Domain {spec.name} can't be taken over: its disk {disk.target} is not one of vda to vdx.")
    return volume


def _plan(
    job: Job,
    node: ComputeNode,
    owner: int,
    spec: DomainSpec,
    info: DomainInfo,
    volumes: list[Volume],
    others: list[DomainInfo],
    kept: Sequence[Snapshot],
) -> VM:
    """Check everything, and record the VM and its disks, in one turn of the reactor."""
    inventory = job.inventory
    inventory.get(User, owner)
    existing = inventory.vm_of(spec.uuid)
    if existing is not None:
        raise Conflict(f"Guest {spec.uuid} is already VM {existing.name}.")
    check_driver(inventory, owner, node.driver)
    _check_disks(inventory, node, spec, volumes, others)
    sizes = sum(volume.size for volume in volumes)
    check_vm(inventory, owner, {**one_vm(spec), "vm_disk": sizes})
    state = str(info.state)
    job.reserve_for(
        owner,
        vms=1,
        running_vms=int(state in POWERED),
        **can_get(spec),
        disks=len(volumes),
        disk_space=sizes,
        snapshots=len(kept),
    )
    interfaces = []
    for plug in spec.interfaces:
        if not job.reserve_mac(plug.mac):
            raise Conflict(
                f"Domain {spec.name} can't be taken over: another VM's interface already has its address {plug.mac}."
            )
        made = {"id": inventory.next_id("interface"), "network": plug.network, "mac": plug.mac}
        interfaces.append(made | ({"model": plug.model} if plug.model else {}))
    vm = VM(
        id=job.target,
        name=_free_name(inventory, spec, owner),
        owner=owner,
        state=state,
        uuid=spec.uuid,
        compute_node=node.id,
        driver=node.driver,
        vcpus=spec.vcpus,
        max_vcpus=spec.max_vcpus,
        memory=spec.memory,
        max_memory=spec.max_memory,
        interfaces=tuple(interfaces),
        description="",
        tags=(),
        autostart=spec.autostart,
        boot=_boot(spec.boot),
        created=job.wall_clock(),
        powered=state in POWERED,
        domain=spec.name,
    )
    vm = replace(vm, snapshots=snapshot_records(inventory, vm, kept))
    job.put(Create(vm))
    for disk, volume in zip(spec.disks, volumes, strict=True):
        name = f"{vm.name[:50]}-{disk.target}"
        if inventory.named(Disk, name, owner) is not None:
            raise Conflict(f"Domain {spec.name} can't be taken over: the name {name} is already in use by another disk.")
        job.put(
            Create(
                Disk(
                    id=inventory.next_id("disk"),
                    name=name,
                    owner=owner,
                    state="ready",
                    size=volume.size,
                    format=disk.format,
                    compute_node=node.id,
                    pool=volume.pool,
                    volume=volume.name,
                    path=disk.path,
                    vm=vm.id,
                    target=disk.target,
                    created=job.wall_clock(),
                )
            )
        )
    return vm


def _check_disks(
    inventory: Inventory, node: ComputeNode, spec: DomainSpec, volumes: list[Volume], others: list[DomainInfo]
) -> None:
    """@raise Conflict: another VM or guest has one of the disks, too."""
    ours = {(disk.pool, disk.volume): disk for disk in inventory.disks_on(node.id)}
    theirs = {disk.path: other.name for other in others for disk in other.disks}
    for disk, volume in zip(spec.disks, volumes, strict=True):
        known = ours.get((volume.pool, volume.name))
        if known is not None:
            raise Conflict(f"Domain {spec.name} can't be taken over: its {disk.target} is already disk {known.name}.")
        if disk.path in theirs:
            raise Conflict(
                f"Domain {spec.name} can't be taken over: domain {theirs[disk.path]} uses its {disk.target}, too."
            )


def _free_name(inventory: Inventory, spec: DomainSpec, owner: int) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", spec.name)[:63]
    if re.fullmatch(NAME_PATTERN, plain) is None:
        plain = f"vm-{plain}"[:63]
    for name in (plain, f"{plain[:54]}-{spec.uuid[:8]}"):
        if inventory.named(VM, name, owner) is None:
            return name
    raise Conflict(f"The name {plain} is already in use by another VM.")


def _boot(boot: Boot) -> dict[str, Any]:
    if not boot.kernel:
        return {"order": list(boot.order)}
    given = {"kernel": boot.kernel, "initrd": boot.initrd, "cmdline": boot.cmdline}
    return {key: value for key, value in given.items() if value}
