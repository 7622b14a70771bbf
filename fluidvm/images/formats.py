"""
Identifies image files by their heads.

The head is read by the inspectors of oslo.utils, which OpenStack's Glance uses. If they find nothing, a raw image is still
not trusted: hosts treat disks made from it as plain bytes, whatever these are (L{fluidvm.driver.IDisks}). A raw image that
looks like another format is refused because it is most likely a mistake.
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
"""Bytes at the start of a file that are inspected. No inspector needs more to recognize a format."""
FOREIGN = {"qcow2": "qcow2", "qed": "QED", "vmdk": "VMDK", "vdi": "VDI", "vhd": "VHD", "vhdx": "VHDX"}
"""The formats that a raw image must not look like: inspectors and names. Partition tables, CDs and LUKS count as raw."""
PARALLELS = (b"WithoutFreeSpace", b"WithouFreSpacExt")
"""How files of the Parallels formats start. oslo.utils does not know these formats."""
UNSAFE = {
    "backing_file": "The image refers to another file; convert it to a standalone image (qemu-img convert).",
    "data_file": "The image refers to another file; convert it to a standalone image (qemu-img convert).",
    "unknown_features": "The file is not a qcow2 image of version 2 or 3, or uses features that some hosts do not support.",
}
"""The fault for each problem that oslo.utils finds in a qcow2 image."""

# Its warnings are about uploaded files: users get faults instead.
logging.getLogger(format_inspector.__name__).setLevel(logging.CRITICAL)


def disk_size(head: bytes, length: int, format: str) -> int:
    """
    Determine the disk size of an image.

    Whatever C{head} contains, this takes only a moment, and memory of a few times its length.

    @param head: the first L{HEAD} bytes of the file, or all of it.
    @param length: the size of the file in bytes.
    @param format: C{raw} or C{qcow2}.
    @return: the disk size in bytes.
    @raise Conflict: the file is not an image of this format, refers to other files, is encrypted, or holds more data than
        its disk.
    """
    if not length:
        raise Conflict("The file is empty.")
    size = _qcow2_size(head, length) if format == "qcow2" else length
    if format != "qcow2":
        found = _foreign(head)
        if found:
            raise Conflict(f"The file is not a {format} image: it starts like a {found} image.")
    if not 0 < size <= INT_HIGH * MIB:
        raise Conflict(f"The disk size of the image must be 1 byte to {INT_HIGH} MiB.")
    return size


def _inspected(name: str, head: bytes) -> format_inspector.FileInspector | None:
    """Return the inspector of a format after it has read a head; C{None} if the head is not of this format."""
    inspector = format_inspector.ALL_FORMATS[name]()
    # Inspectors raise any exception, such as AttributeError, at invalid data. What they have read by then counts.
    with suppress(Exception):
        # Inspectors need whole sectors, though QEMU does not; but a VMDK descriptor must have no zeros after it.
        inspector.eat_chunk(head.rstrip(b"\0") if name == "vmdk" else head.ljust(512, b"\0"))
        inspector.finish()
    with suppress(Exception):
        return inspector if inspector.format_match else None
    return None


def _foreign(head: bytes) -> str:
    """Return the name of the format, not allowed in raw images, that a head has; empty if none."""
    if head.startswith(PARALLELS):
        return "Parallels"
    return next((words for name, words in FOREIGN.items() if _inspected(name, head) is not None), "")


def _qcow2_size(head: bytes, length: int) -> int:
    inspector = _inspected("qcow2", head)
    if inspector is None or min(length, len(head)) < 72:
        raise Conflict("The file is not a qcow2 image.")
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        found = next((words for name, words in UNSAFE.items() if name in error.failures), str(error))
        raise Conflict(sentence(found)) from None
    except format_inspector.ImageFormatError as error:
        raise Conflict(sentence(f"The file is not a qcow2 image: {error}")) from None
    # What oslo.utils does not check (https://www.qemu.org/docs/master/interop/qcow2.html).
    cluster_bits, size, encrypted = struct.unpack_from(">IQI", head, 20)
    (snapshots,) = struct.unpack_from(">I", head, 60)
    if encrypted:
        raise Conflict("The image is encrypted.")
    if not 9 <= cluster_bits <= 21:
        raise Conflict("The file is not a qcow2 image: its cluster size is not valid.")
    if snapshots:
        # Reverting to one may give the disk another size than the ledger counts.
        raise Conflict(
            "The image contains snapshots; remove them (qemu-img convert), or create the image from a copy (clone_disk)."
        )
    # With the smallest clusters, each of two kinds of tables takes 1/64 of the size. A few more clusters of each kind exist.
    if length > size + size // 16 + (8 << cluster_bits):
        raise Conflict(
            "The image's file holds more data than its disk; rewrite it (qemu-img convert), or create the image from a copy "
            "(clone_disk)."
        )
    return int(size)
