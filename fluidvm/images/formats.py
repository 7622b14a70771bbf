"""
What an image's file is, by its head.

The head is read by oslo.utils' inspectors, which OpenStack's Glance uses. That they find nothing doesn't make a raw image
harmless: disks made of one are so many bytes to their hosts, whatever is in them (L{fluidvm.driver.IDisks}). What is refused
here as raw is refused because it is most likely a mistake.
"""

from __future__ import annotations

import logging
import struct
from contextlib import suppress

from oslo_utils.imageutils import format_inspector

from fluidvm.model.faults import Conflict, sentence
from fluidvm.model.xmlvalue import INT_HIGH

MIB = 2**20
HEAD = MIB
"""Bytes of a file that are looked at; none of the inspectors has to see more to know a format."""
FOREIGN = {"qcow2": "qcow2", "qed": "QED", "vmdk": "VMDK", "vdi": "VDI", "vhd": "VHD", "vhdx": "VHDX"}
"""The inspectors of what no raw image begins as, and their formats' names. Partition tables, CDs and LUKS are raw, too."""
PARALLELS = (b"WithoutFreeSpace", b"WithouFreSpacExt")
"""What the formats of Parallels begin with, which oslo.utils doesn't know."""
UNSAFE = {
    "backing_file": "The image refers to another file; convert it to a standalone image (qemu-img convert).",
    "data_file": "The image refers to another file; convert it to a standalone image (qemu-img convert).",
    "unknown_features": "It is not a qcow2 image of version 2 or 3, or uses features that some hosts do not support.",
}
"""What oslo.utils finds wrong with a qcow2 image, in words."""

# Its warnings are of what users upload: they are told by faults.
logging.getLogger(format_inspector.__name__).setLevel(logging.CRITICAL)


def disk_size(head: bytes, length: int, format: str) -> int:
    """
    Tell how large a disk an image is.

    Nothing in C{head} makes it take more than a moment, or more memory than a few times its length.

    @param head: the file's first L{HEAD} bytes, or all of them.
    @param length: the file's bytes.
    @param format: C{raw} or C{qcow2}.
    @return: bytes.
    @raise Conflict: it is no image of this format, or one that leads to other files, is encrypted, or has more in it than
        its disk.
    """
    if not length:
        raise Conflict("It is empty.")
    size = _qcow2_size(head, length) if format == "qcow2" else length
    if format != "qcow2":
        found = _foreign(head)
        if found:
            raise Conflict(f"It is not a {format} image: it starts like a {found} image.")
    if not 0 < size <= INT_HIGH * MIB:
        raise Conflict(f"The disk size of the image must be 1 byte to {INT_HIGH} MiB.")
    return size


def _inspected(name: str, head: bytes) -> format_inspector.FileInspector | None:
    """A format's inspector that has read a head, if it is of this format."""
    inspector = format_inspector.ALL_FORMATS[name]()
    # They raise whatever comes, such as AttributeError, at what they can't read; what they have read by then counts.
    with suppress(Exception):
        # They want whole sectors, where QEMU takes what there is; but a VMDK's text alone, without zeros behind it.
        inspector.eat_chunk(head.rstrip(b"\0") if name == "vmdk" else head.ljust(512, b"\0"))
        inspector.finish()
    with suppress(Exception):
        return inspector if inspector.format_match else None
    return None


def _foreign(head: bytes) -> str:
    """What a head is that no raw image has, in words; empty: nothing."""
    if head.startswith(PARALLELS):
        return "Parallels"
    return next((words for name, words in FOREIGN.items() if _inspected(name, head) is not None), "")


def _qcow2_size(head: bytes, length: int) -> int:
    inspector = _inspected("qcow2", head)
    if inspector is None or min(length, len(head)) < 72:
        raise Conflict("It is not a qcow2 image.")
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        found = next((words for name, words in UNSAFE.items() if name in error.failures), str(error))
        raise Conflict(sentence(found)) from None
    except format_inspector.ImageFormatError as error:
        raise Conflict(sentence(f"It is not a qcow2 image: {error}")) from None
    # What oslo.utils doesn't look at (https://www.qemu.org/docs/master/interop/qcow2.html).
    cluster_bits, size, encrypted = struct.unpack_from(">IQI", head, 20)
    (snapshots,) = struct.unpack_from(">I", head, 60)
    if encrypted:
        raise Conflict("The image is encrypted.")
    if not 9 <= cluster_bits <= 21:
        raise Conflict("It is not a qcow2 image: its cluster size is not valid.")
    if snapshots:
        # Going back to one may give a disk another size than is counted.
        raise Conflict(
            "The image contains snapshots; remove them (qemu-img convert), or create the image from a copy (clone_disk)."
        )
    # Tables take a 64th of the smallest clusters twice; besides, there are a few clusters of each kind.
    if length > size + size // 16 + (8 << cluster_bits):
        raise Conflict(
            "The image's file holds more data than its disk; rewrite it (qemu-img convert), or create the image from a copy "
            "(clone_disk)."
        )
    return int(size)
