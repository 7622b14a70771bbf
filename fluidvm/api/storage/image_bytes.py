"""Copying bytes between image files, volumes and web servers."""

from __future__ import annotations

from fluidvm.driver import IImages, Progress
from fluidvm.engine.job import Job
from fluidvm.images.files import MIB, PIECE
from fluidvm.model.faults import Conflict
from fluidvm.model.objects import Disk, Image


async def fill(job: Job, image: int, disk: Disk, volume: str, progress: Progress) -> None:
    """
    Write an image's bytes into a new volume.

    @raise Conflict: the image's file doesn't match its record.
    """
    connection = await job.connection(disk.compute_node, IImages)
    record = job.inventory.get(Image, image)
    try:
        length = await job.images.check(image, record.format, record.size)
    except Conflict as fault:
        raise Conflict(f"Image {record.name} can't be used, import it again: {fault.faultString}") from None
    for offset in range(0, length, PIECE):
        data = await job.interruptible(job.images.read(image, offset))
        # A new raw volume contains only zeros. A volume of another format ends at the last byte that was written.
        if disk.format != "raw" or data.strip(b"\0"):
            await job.interruptible(connection.write_volume(disk.pool, volume, disk.format, offset, data))
        progress(min(99, 100 * (offset + PIECE) // length))


async def drain(job: Job, disk: Disk, image: Image) -> None:
    """
    Write a volume's bytes into an image's file.

    @raise Conflict: it is too large.
    @raise QuotaExceeded: its owner's plan doesn't allow the space, or the server's disk doesn't have it.
    """
    connection = await job.connection(disk.compute_node, IImages)
    length = await job.interruptible(connection.measure_volume(disk.pool, disk.volume, disk.format))
    await _expect(job, image, length)
    await job.images.begin(image.id)
    offset = 0
    while data := await job.interruptible(connection.read_volume(disk.pool, disk.volume, disk.format, offset, PIECE)):
        await _append(job, image, offset, data, length)
        offset += len(data)
        job.progress(min(99, 100 * offset // max(1, length)))


async def fetch(job: Job, url: str, image: Image) -> None:
    """
    Fetch an image's file.

    @raise Unavailable: it can't be fetched; says why.
    @raise Conflict: it is too large.
    @raise QuotaExceeded: its owner's plan doesn't allow the space, or the server's disk doesn't have it.
    """
    await job.images.begin(image.id)
    source = job.images.source(job.clock, url)
    try:
        length = await job.interruptible(source.open()) or 0
        await _expect(job, image, length)
        offset = 0
        while data := await job.interruptible(source.read()):
            await _append(job, image, offset, data, length)
            offset += len(data)
            if length:
                job.progress(min(90, 90 * offset // length))
    finally:
        source.close()


async def _expect(job: Job, image: Image, length: int) -> None:
    """Check and reserve the space for a whole image before its first byte is written."""
    _bound(job, length)
    await job.reserve(image.owner, disk_space=-(-length // MIB))
    await job.images.check_room(length)


async def _append(job: Job, image: Image, offset: int, data: bytes, expected: int) -> None:
    """Write a piece of an image, and check its size again: the sender may announce a smaller length, or none."""
    _bound(job, offset + len(data))
    await job.reserve(image.owner, disk_space=-(-max(expected, offset + len(data)) // MIB))
    await job.images.append(image.id, offset, data)


def _bound(job: Job, length: int) -> None:
    if length > job.images.most:
        raise Conflict(f"The image is larger than the {job.images.most // MIB} MiB of --max-image.")
