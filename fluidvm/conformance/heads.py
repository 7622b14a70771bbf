"""What guests can write to raw disks: headers of other formats, which name files of the host or give false sizes."""

from __future__ import annotations

import struct

LIE = 3 << 40
"""The false disk size in the headers, in bytes."""
NAMED = b"/etc/hostname"
"""A file that exists on every host."""


def qcow2(backing: bytes = b"", data_file: bytes = b"", size: int = LIE, version: int = 3) -> bytes:
    """
    Create a qcow2 header (U{https://www.qemu.org/docs/master/interop/qcow2.html}).

    @param backing: the path of the backing file; empty: none.
    @param data_file: the path of the external data file; empty: none.
    """
    extension = b""
    if data_file:
        extension = struct.pack(">4sI", b"DATA", len(data_file)) + data_file + bytes(-len(data_file) % 8)
    extension += bytes(8)
    name = 104 + len(extension)
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        version,
        name if backing else 0,
        len(backing),
        16,
        size,
        0,
        1,
        0x30000,
        0x10000,
        1,
        0,
        0,
        4 if data_file else 0,
        0,
        0,
        4,
        104,
    )
    return head + extension + backing


def qed(backing: bytes) -> bytes:
    """Create a QED header with a backing file whose format must be detected."""
    head = struct.pack("<4sIIIQQQQQII", b"QED\0", 65536, 4, 1, 1, 0, 0, 65536, LIE, 72, len(backing))
    return head.ljust(72, b"\0") + backing


def vmdk(extent: bytes) -> bytes:
    """Create a VMDK descriptor with its data in another file."""
    lines = (
        b"# Disk DescriptorFile",
        b"version=1",
        b"CID=fffffffe",
        b"parentCID=ffffffff",
        b'createType="monolithicFlat"',
        b'RW 20480 FLAT "' + extent + b'" 0',
        b'ddb.virtualHWVersion = "4"',
        b'ddb.geometry.cylinders = "20"',
        b'ddb.geometry.heads = "16"',
        b'ddb.geometry.sectors = "63"',
        b'ddb.adapterType = "ide"',
        b"",
    )
    return b"\n".join(lines)


def heads(named: bytes) -> dict[str, bytes]:
    """
    Create a header of each kind, by its description.

    @param named: the path of a file, for the kinds that can refer to one.
    """
    return {
        "qcow2 with a backing file": qcow2(backing=named),
        "qcow2 with a data file": qcow2(data_file=named),
        "qcow2 of 8 EiB": qcow2(size=2**63),
        "qcow": struct.pack(">4sIQIIQBBII", b"QFI\xfb", 1, 48, len(named), 0, LIE, 12, 9, 0, 0).ljust(48, b"\0") + named,
        "QED with a backing file": qed(named),
        "VMDK with an extent": vmdk(named),
        "sparse VMDK": struct.pack("<4sIIQQQQIQQ", b"KDMV", 1, 3, LIE // 512, 128, 1, 20, 512, 0, 21).ljust(512, b"\0")
        + vmdk(named),
        "VDI": bytes(64) + struct.pack("<III", 0xBEDA107F, 0x10001, 0x190) + bytes(292) + struct.pack("<Q", LIE),
        "VHD": struct.pack(">8sIIQ", b"conectix", 2, 0x10000, 512).ljust(40, b"\0") + struct.pack(">QQ", LIE, LIE),
        "VHDX": b"vhdxfile" + bytes(504),
        "Parallels": struct.pack("<16sIIIIIII", b"WithoutFreeSpace", 2, 16, 10, 63, 1, LIE // 512 % 2**32, 0),
        "LUKS": b"LUKS\xba\xbe\0\1" + b"aes".ljust(32, b"\0") + b"xts-plain64".ljust(32, b"\0") + b"sha256".ljust(32, b"\0"),
        "Bochs": b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0") + b"Growing".ljust(16, b"\0"),
        "cloop": b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n",
        "DMG": b"koly" + struct.pack(">II", 4, 512) + bytes(500),
        "QEMU's options": b'json:{"driver": "raw", "file": {"driver": "file", "filename": "' + named + b'"}}',
    }


KINDS = ("qcow2 with a backing file", "qcow2 with a data file", "QED with a backing file", "VMDK with an extent", "VDI")
"""A selection, as tests with all of them take too long on slow hosts."""
HEADS = {what: heads(NAMED)[what] for what in KINDS}
