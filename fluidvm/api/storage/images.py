"""Importing, creating, reading and deleting images."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from twisted.internet.defer import CancelledError

from fluidvm.access.call import Call
from fluidvm.api.listing import list_objects, show
from fluidvm.api.placement import free_name, may_own, owner_of
from fluidvm.api.storage.disks import check_idle
from fluidvm.api.storage.image_bytes import drain, fetch
from fluidvm.auth.permissions import administers
from fluidvm.driver import IImages
from fluidvm.engine.job import Job
from fluidvm.images.files import UPLOAD_NAME, Inspected
from fluidvm.model.declare import query, task
from fluidvm.model.faults import Conflict, Forbidden, InvalidParams
from fluidvm.model.kinds import NAME_RULE, Bool, Choice, DiskId, Id, ImageId, Struct, Text, filter_of, named
from fluidvm.model.object_fields import wire_fields
from fluidvm.model.objects import Disk, Image
from fluidvm.model.xmlvalue import INT_HIGH, Members, Rendered
from fluidvm.store.objects import Create, Delete, Update

FORMATS = ("qcow2", "raw")
ImageSpec = Annotated[
    dict[str, Any],
    Struct(
        "the image, and the source of its file",
        fields={
            "name": named("the image's name, unique among its owner's images"),
            "format": Choice("format of the file", choices=FORMATS),
            "url": Text(
                "URL to download the file from", longest=2000, pattern=r"https?://[\x21-\x7e]+", rule="http:// or https://"
            ),
            "upload": Text("name of one of the caller's uploads", longest=63, pattern=UPLOAD_NAME, rule=NAME_RULE),
            "sha256": Text(
                "SHA-256 checksum of the file; required with url",
                longest=64,
                pattern="[0-9a-f]{64}",
                rule="64 hexadecimal digits",
            ),
            "public": Bool("whether all users may use it (administrators only); default: false"),
            "owner": Id("the owner; default: the caller", type="user"),
        },
        required=("name", "format"),
        either=(("url", "upload"),),
    ),
]
ImageFilter = Annotated[dict[str, Any], filter_of(wire_fields(Image))]
ImageName = Annotated[str, named("the image's name, unique among its owner's images")]


def _check_import(call: Call, spec: dict[str, Any]) -> None:
    may_own(call, spec)
    if "url" not in spec and "upload" not in spec:
        raise InvalidParams("spec.upload: is missing; either upload or url is required.")
    if "url" in spec:
        if "sha256" not in spec:
            raise InvalidParams("spec.sha256: is missing.")
        call.services.resources.images.urls.admit(spec["url"])
    if spec.get("public") and not administers(call.user):
        raise Forbidden("spec.public: is allowed only for administrators.")
    free_name(call.inventory, Image, spec["name"], spec.get("owner", call.user.id))


async def _record(job: Job, name: str, owner: int, format: str, public: bool) -> Image:
    """Store an image's record, or find the one that an interrupted run has stored."""
    image = job.inventory.find(Image, job.target)
    if image is None:
        free_name(job.inventory, Image, name, owner)
        image = Image(
            id=job.target,
            name=name,
            owner=owner,
            public=public,
            size=0,
            format=format,
            sha256="",
            state="creating",
            created=job.wall_clock(),
        )
        job.put(Create(image))
        await job.flush()
    return image


async def _complete(job: Job, image: Image, sha256: str = "", upload: str | None = None, size: int | None = None) -> None:
    """
    Inspect the file that was written, and reserve its space. Until then a client can cancel the task.

    @param size: MiB of the disk that it was copied from.
    """
    job.status("checking")
    found = await job.images.finish(image.id, image.format)
    if size is not None:
        if image.format != "raw" and found.sha256 and found.size != size:  # in a plan it isn't known
            raise Conflict(f"Image {image.name} would be for disks of {found.size} MiB, but its disk has {size} MiB.")
        found = replace(found, size=size)
    if found.size > INT_HIGH:
        raise Conflict(
            f"Image {image.name} requires a disk of {found.size} MiB, but a disk can have at most {INT_HIGH} MiB."
        )
    if sha256 and found.sha256 not in (sha256, ""):  # empty in a rehearsal
        raise Conflict(f"The checksum of image {image.name} is {found.sha256}, not {sha256}.")
    job.leavable(False)
    if job.cancelled:
        raise Conflict("cancelled")
    if upload is not None:
        job.uploads.uncount(job.actor, upload)  # in the same reactor turn in which the image's space is reserved
    await job.reserve(image.owner, disk_space=found.space)
    job.memo["found"] = [found.size, found.space, found.sha256]
    await job.flush()


async def _keep(job: Job, image: Image) -> None:
    await job.images.keep(image.id)
    found = Inspected(*job.memo["found"])
    fields = {"state": "ready", "size": found.size, "space": found.space, "sha256": found.sha256}
    job.put(Update("image", image.id, fields))


@task("image", roles=("admin", "user"), creates=True, precheck=_check_import)
async def import_image(job: Job, spec: ImageSpec) -> None:
    """
    Create an image from a file, which is downloaded from an allowed URL or was uploaded (PUT /images/upload).

    The file must be self-contained: an image that refers to other files is refused. The image counts as disk space of its
    owner. If the task fails, nothing is left; an upload is kept for another attempt.
    """
    image = await _record(job, spec["name"], owner_of(job, spec), spec["format"], spec.get("public", False))
    upload = spec.get("upload")
    try:
        if "found" not in job.memo:
            job.leavable()
            if upload is None:
                job.status("fetching")
                await fetch(job, spec["url"], image)
            else:
                await job.uploads.take(job.actor, upload, image.id)
            await _complete(job, image, spec.get("sha256", ""), upload)
        await _keep(job, image)
        if upload is not None:
            await job.uploads.done(job.actor, upload, image.id)
    except CancelledError:
        raise  # the server stops: its next start resumes here
    except Exception:
        if upload is not None:
            await job.uploads.give_back(job.actor, upload, image.id)
        await _undo(job, image)
        raise


@task("image", creates=True, precheck=lambda call, disk, name: _check_copy(call, disk, name), needs=(IImages,))
async def create_image(job: Job, disk: DiskId, name: ImageName) -> None:
    """
    Create an image from a disk that is detached or whose VM is stopped. Its owner is the owner of the disk.

    If the task fails, nothing is left.
    """
    source = job.inventory.get(Disk, disk)
    check_idle(job, source)
    if source.format not in FORMATS:
        raise Conflict(
            f"Disk {source.name} has format {source.format}: images can only be created from {' or '.join(FORMATS)} disks."
        )
    await job.connection(source.compute_node, IImages)
    image = await _record(job, name, source.owner, source.format, False)
    try:
        if "found" not in job.memo:
            job.leavable()
            job.status(f"copying {source.name}")
            await drain(job, source, image)
            await _complete(job, image, size=source.size)
        await _keep(job, image)
    except CancelledError:
        raise  # as above
    except Exception:
        await _undo(job, image)
        raise


def _check_copy(call: Call, disk: int, name: str) -> None:
    record = call.inventory.find(Disk, disk)
    free_name(call.inventory, Image, name, call.user.id if record is None else record.owner)


async def _undo(job: Job, image: Image) -> None:
    job.take_facts()
    await job.images.drop(image.id)
    job.put(Delete("image", image.id))


@task("image", roles=("admin", "user"))
async def delete_image(job: Job, image: ImageId) -> None:
    """Delete an image. Disks that were created from it stay as they are; tasks that are creating one fail."""
    await job.images.drop(image)
    job.put(Delete("image", image))


@query("struct")
def get_image(call: Call, image: ImageId) -> Rendered:
    """Return an image."""
    return show(call, "image", image)


@query("array")
def list_images(call: Call, filter: ImageFilter = {}) -> Members:  # noqa: B006
    """List the images that the caller may see: their own and public ones."""
    return list_objects(call, "image", filter)
