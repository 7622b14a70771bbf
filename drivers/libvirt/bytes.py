"""
Reading and writing the files of volumes as bytes, through libvirt's streams.

libvirt reads the headers of a pool's files and trusts them: what a guest has written to a raw volume determines which
format, size and backing file libvirt believes it has. This module uses the file's bytes alone; libvirt's streams open the
file as it is, and don't run C{qemu-img}.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import libvirt

from fluidvm.driver import DriverError, WrongState

CHUNK = 256 * 1024
"""Bytes that pass through the server in one piece: the size of libvirt's messages."""
HOLE = -3
"""The result of C{recvFlags} at a hole in the volume."""
LONGEST = 2**63 - 1
"""Maximum size of a file in bytes."""


class Copying:
    """
    The progress of copying volumes: written by the thread that copies, read by the reactor's thread.

    @ivar total: bytes to copy, without holes.
    @ivar stop: set to stop the thread.
    """

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.stop = threading.Event()

    @property
    def percentage(self) -> int:
        """Percentage, 0 to 99."""
        return min(99, 100 * self.done // self.total) if self.total else 0


def file_size(connection: Any, volume: Any) -> int:
    """
    Measure a volume's file; blocks.

    @return: bytes.
    """
    try:
        return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])
    except libvirt.libvirtError:
        # libvirt fails because of its contents (such as a QED header with a backing file): find the end by reading bytes.
        if not _has_byte(connection, volume, 0):
            return 0
    low, high = 1, 2
    while high < LONGEST and _has_byte(connection, volume, high - 1):
        low, high = high, min(2 * high, LONGEST)
    while low < high - 1:
        middle = (low + high) // 2
        if _has_byte(connection, volume, middle - 1):
            low = middle
        else:
            high = middle
    return low


def allocated(volume: Any) -> int:
    """Count the bytes of a file that aren't holes; 0 if libvirt can't; blocks."""
    try:
        return int(volume.info()[2])
    except libvirt.libvirtError:
        return 0


def _has_byte(connection: Any, volume: Any, offset: int) -> bool:
    return bool(read(connection, volume, offset, 1))


def read(connection: Any, volume: Any, offset: int, length: int) -> bytes:
    """Read a piece of a volume's file, shorter if the file ends; blocks."""
    stream = connection.newStream()
    found = bytearray()
    try:
        volume.download(stream, offset, length)
        while data := stream.recv(CHUNK):
            found += data
        stream.finish()
    except libvirt.libvirtError:
        abort([stream])
        _refuse_mistaken(volume)
        raise
    return bytes(found)


def write(connection: Any, volume: Any, offset: int, data: bytes) -> None:
    """Write a piece of a volume's file, which grows if needed; blocks."""
    stream = connection.newStream()
    try:
        volume.upload(stream, offset, len(data))
        view = memoryview(data)
        while view:
            view = view[stream.send(bytes(view[:CHUNK])) :]
        stream.finish()
    except libvirt.libvirtError:
        abort([stream])
        _refuse_mistaken(volume)
        raise


def grow(connection: Any, volume: Any, size: int) -> None:
    """
    Extend a raw volume's file by a hole; blocks.

    This writes the last byte. libvirt's own resizing uses the format that libvirt believes the volume has: C{qemu-img} would
    then open any file that is named in a header which a guest has written.

    @param size: the new size in bytes, more than the old one.
    @raise DriverError: the file doesn't have this size afterwards.
    """
    write(connection, volume, size - 1, b"\0")
    there = file_size(connection, volume)
    if there != size:
        raise DriverError(f"Volume {volume.name()} has {there} bytes, not {size}: its storage pool can't make it larger.")


def copy(down: Any, source: Any, up: Any, target: Any, copying: Copying) -> None:
    """
    Copy a volume's file, with its holes, to a new volume; blocks.

    @param down: a new stream of the source's connection; C{up}: of the target's.
    @see: U{https://libvirt.org/html/libvirt-libvirt-stream.html}
    """
    streams = (down, up)
    try:
        source.download(down, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        target.upload(up, 0, 0, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
        while not copying.stop.is_set():
            data = down.recvFlags(CHUNK, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
            if data == HOLE:
                up.sendHole(down.recvHole())
            elif data:
                sent = 0
                while sent < len(data):
                    sent += up.send(data[sent:])
                copying.done += len(data)
            else:
                down.finish()
                up.finish()
                return
    except libvirt.libvirtError:
        abort(streams)
        _refuse_mistaken(source)
        raise
    abort(streams)


def mistaken(volume: Any) -> bool:
    """
    Tell whether libvirt mistakes a file for a Virtuozzo image (ploop), which is a directory; blocks.

    libvirt decides that by the file's first bytes, and then looks for other files below it. There is no way to avoid this.
    """
    try:
        return bool(volume.info()[0] == libvirt.VIR_STORAGE_VOL_PLOOP)
    except libvirt.libvirtError:
        return False


def _refuse_mistaken(volume: Any) -> None:
    if mistaken(volume):
        raise WrongState(
            f"Volume {volume.name()} begins like a Virtuozzo image, and libvirt treats it as one; start a domain that "
            "uses it, and overwrite the beginning of the disk in its guest."
        )


def abort(streams: Sequence[Any]) -> None:
    """Abort streams."""
    for stream in streams:
        try:
            stream.abort()
        except libvirt.libvirtError:
            continue  # a stream that failed or hasn't begun can't be aborted
