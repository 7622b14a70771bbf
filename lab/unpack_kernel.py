"""
Unpack a Linux bzImage into the ELF kernel inside it.

C{unpack_kernel.py VMLINUZ VMLINUX}. QEMU starts an uncompressed kernel by its PVH entry, which spares an emulated CPU
the unpacking. The header's fields: Linux's Documentation/arch/x86/boot.rst (setup_sects, payload_offset, payload_length).
"""

from __future__ import annotations

import lzma
import struct
import subprocess
import sys
import zlib
from pathlib import Path


def unpack(image: bytes) -> bytes:
    """
    Find and unpack the payload.

    @param image: the bzImage.
    @return: the ELF file.
    @raise ValueError: its compression isn't known.
    """
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(sectors + 1) * 512 + offset :][:length]
    # A payload's last four bytes are its unpacked size, which lz4 may still complain about: errors are told by the result.
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    for magic, tool in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4")):
        if payload.startswith(magic):
            return subprocess.run([tool, "-dc"], input=payload[:-4], stdout=subprocess.PIPE, check=False).stdout
    raise ValueError(f"unknown compression: {payload[:6]!r}")


if __name__ == "__main__":
    kernel = unpack(Path(sys.argv[1]).read_bytes())
    if not kernel.startswith(b"\x7fELF"):
        sys.exit("unpack_kernel.py: what came out is no kernel")
    Path(sys.argv[2]).write_bytes(kernel)
