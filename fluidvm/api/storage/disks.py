"""Creating, reading and deleting disks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any
from uuid import uuid4

from twisted.internet.defer import CancelledError

from fluidvm.access.call import Call
from fluidvm.api.listing import list_objects, show
from fluidvm.api.placement import free_name, may_own, owner_of, place
from fluidvm.api.storage.image_bytes import fill
from fluidvm.auth.permissions import check_object
from fluidvm.driver import IDisks, IImages, IVolumes, NoSuchThing
from fluidvm.engine.job import Job
from fluidvm.engine.placement import Wanted
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.declare import query, task
from fluidvm.model.faults import Conflict, InvalidParams
from fluidvm.model.kinds import DiskId, Id, Int, Struct, Text, filter_of, named
from fluidvm.model.object_fields import wire_fields
from fluidvm.model.objects import VM, ComputeNode, Disk, Image
from fluidvm.model.xmlvalue import Members, Rendered
from fluidvm.store.objects import Create, Delete, Update

DEFAULT_POOL = "default"

DiskSpec = Annotated[
    dict[str, Any],
    Struct(
        "the disk",
        fields={
            "name": named("the disk's name, unique among its owner's disks"),
            "size": Int("size that the guest sees; default: the image's", unit="MiB", low=1),
            "image": Id("the image to create it from; default: none, an empty disk", type="image"),
            "compute_node": Id("the compute node; default: the server chooses one", type="compute_node"),
            "pool": named("the storage pool; default: default"),
            "format": Text(
                "format: qcow2, raw...; default: the driver's first",
                longest=16,
                pattern="[a-z0-9]+",
                rule="lower-case letters and digits",
            ),
            "owner": Id("the owner; default: the caller", type="user"),
        },
        required=("name",),
    ),
]
DiskFilter = Annotated[dict[str, Any], filter_of(wire_fields(Disk))]


def new_disk(
    job: Job, spec: dict[str, Any], name: str, owner: int, node: ComputeNode, id: int | None = None, **attached: Any
) -> Disk:
    """
    Decide all properties of a new disk before the hypervisor is asked.

    @param spec: C{size}, and optionally C{pool} and C{format}.
    @param id: default: a new one.
    @param attached: C{vm} and C{target}, if it is created together with a VM.
    @raise InvalidParams: the node's driver doesn't support the format.
    """
    formats = job.nodes.formats(node.id)
    format = spec.get("format", formats[0])
    if format not in formats:
        raise InvalidParams(
            f"spec.format: {format} is not supported by compute node {node.name}: use one of {', '.join(formats)}."
        )
    return Disk(
        id=job.inventory.next_id("disk") if id is None else id,
        name=name,
        owner=owner,
        state="creating",
        size=spec["size"],
        format=format,
        compute_node=node.id,
        pool=spec.get("pool", DEFAULT_POOL),
        volume=f"{name}-{uuid4().hex[:12]}",
        path="",
        vm=attached.get("vm"),
        target=attached.get("target"),
        created=job.wall_clock(),
        image=spec.get("image"),
    )


def with_image(job: Job, spec: dict[str, Any]) -> dict[str, Any]:
    """
    Complete the size and format of a new disk from its image, if it has one.

    @raise NotFound: there is no such image, or the task's user is not allowed to see it.
    @raise Conflict: the image isn't ready, or has another format, or is larger.
    """
    if "image" not in spec:
        return spec
    check_object(job.inventory, job.user(), "image", spec["image"])
    image = job.inventory.get(Image, spec["image"])
    if image.state != "ready":
        raise Conflict(f"Image {image.name} is {image.state}.")
    if spec.get("format", image.format) != image.format:
        raise Conflict(f"Image {image.name} has format {image.format}: a disk created from it must have the same format.")
    if spec.get("size", image.size) < image.size:
        raise Conflict(f"Image {image.name} requires a disk of at least {image.size} MiB.")
    return {"size": image.size, "format": image.format, **spec}


async def make_volume(job: Job, disk: Disk, progress: Callable[[int], None]) -> Disk:
    """Create a disk's volume, and fill it from its image if it has one. Stores the changed disk, and returns it."""
    fields = await filled_volume(job, disk, progress)
    job.put(Update("disk", disk.id, fields))
    return replace(disk, **fields)


async def filled_volume(job: Job, disk: Disk, progress: Callable[[int], None]) -> dict[str, Any]:
    """Create a disk's volume, and fill it from its image if it has one. Returns the disk's changed fields."""
    connection = await job.connection(disk.compute_node, IDisks)
    if disk.image is not None:
        # An interrupted run may have left a volume of another size.
        await delete_volume(job, disk)
    volume = await job.interruptible(connection.create_volume(disk.pool, disk.volume, disk.size, disk.format, progress))
    if disk.image is not None:
        await fill(job, disk.image, disk, disk.volume, progress)
        image = job.inventory.get(Image, disk.image)
        if disk.format != "raw" and disk.size > image.size:
            # Writing the image's bytes has set the volume to the image's size.
            volumes = await job.connection(disk.compute_node, IVolumes)
            await volumes.resize_volume(disk.pool, disk.volume, disk.format, disk.size)
    return {"state": "ready", "path": volume.path}


async def delete_volume(job: Job, disk: Disk) -> None:
    """Delete a disk's volume. It is no error if the volume or its pool doesn't exist."""
    connection = await job.connection(disk.compute_node, IDisks)
    with suppress(NoSuchThing):
        await connection.delete_volume(disk.pool, disk.volume)


def check_idle(job: Job, disk: Disk) -> None:
    """@raise Conflict: the disk isn't ready, or its VM isn't stopped. A saved VM relies on the content that it has now."""
    if disk.state != "ready":
        raise Conflict(f"Disk {disk.name} is {disk.state}.")
    if disk.vm is None:
        return
    vm = job.inventory.get(VM, disk.vm)
    if vm.powered or vm.state == "saved":
        raise Conflict(f"Disk {disk.name} is in use by VM {vm.name}, which is {vm.state}: stop it first.")


def check_detached(inventory: Inventory, disk: Disk) -> None:
    """@raise Conflict: the disk is attached to a VM."""
    if disk.vm is not None:
        raise Conflict(f"Disk {disk.name} is attached to VM {inventory.get(VM, disk.vm).name}: detach it first.")


def check_attachable(inventory: Inventory, disk: Disk, vm: VM) -> None:
    """@raise Conflict: the disk is attached, isn't ready, has another owner, or is on another compute node."""
    check_detached(inventory, disk)
    if disk.owner != vm.owner:
        raise Conflict(f"Disk {disk.name} doesn't have the same owner as VM {vm.name}.")
    if disk.state != "ready":
        raise Conflict(f"Disk {disk.name} is {disk.state}.")
    if disk.compute_node != vm.compute_node:
        here, there = (inventory.get(ComputeNode, id).name for id in (disk.compute_node, vm.compute_node))
        raise Conflict(f"Disk {disk.name} is on compute node {here}, but VM {vm.name} is on {there}.")


def _check_spec(call: Call, spec: dict[str, Any]) -> None:
    may_own(call, spec)
    free_name(call.inventory, Disk, spec["name"], spec.get("owner", call.user.id))
    if "size" not in spec and "image" not in spec:
        raise InvalidParams("spec.size: is missing.")


@task("disk", creates=True, precheck=_check_spec, needs=(IDisks,), optional_abilities=((IImages, "from images"),))
async def create_disk(job: Job, spec: DiskSpec) -> None:
    """
    Create a detached disk, either empty or from an image.

    The disk is stored before the hypervisor is asked. If the task fails, nothing is left.
    """
    disk = job.inventory.find(Disk, job.target)
    if disk is None:
        owner = owner_of(job, spec)
        free_name(job.inventory, Disk, spec["name"], owner)
        spec = with_image(job, spec)
        abilities = (IDisks, IImages, IVolumes) if "image" in spec else (IDisks,)
        node = await place(job, spec, owner, Wanted(pool=spec.get("pool", DEFAULT_POOL), space=spec["size"]), *abilities)
        for ability in abilities:
            await job.connection(node.id, ability)
        disk = new_disk(job, spec, spec["name"], owner, node, id=job.target)
        job.reserve_for(owner, disks=1, disk_space=disk.size)
        job.put(Create(disk))
        await job.flush()
        job.unreserve()
    try:
        await make_volume(job, disk, job.progress)
    except CancelledError:
        raise  # the server stops: its next start resumes here
    except Exception:
        try:
            await delete_volume(job, disk)
        except Exception as error:
            # The record stays, as missing: without it, a volume that may exist would be orphaned.
            job.put(Update("disk", disk.id, {"state": "missing"}))
            job.status(f"cleaning up failed: {error}")
        else:
            job.put(Delete("disk", disk.id))
        raise


@task("disk", needs=(IDisks,))
async def delete_disk(job: Job, disk: DiskId) -> None:
    """Delete a detached disk and its content."""
    record = job.inventory.get(Disk, disk)
    check_detached(job.inventory, record)
    await delete_volume(job, record)
    job.put(Delete("disk", disk))


@query("struct")
def get_disk(call: Call, disk: DiskId) -> Rendered:
    """Return a disk."""
    return show(call, "disk", disk)


@query("array")
def list_disks(call: Call, filter: DiskFilter = {}) -> Members:  # noqa: B006
    """List the disks that the caller may see."""
    return list_objects(call, "disk", filter)
