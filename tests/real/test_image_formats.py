"""What images are, by their heads: hostile ones are refused or taken for bytes, in no time."""

from __future__ import annotations

import logging
import shutil
import struct
import subprocess
import time
import tracemalloc
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.conformance.heads import heads, qcow2, vmdk
from fluidvm.images.formats import HEAD, MIB, PARALLELS, disk_size
from fluidvm.model.faults import Conflict

SECRET = b"/root/secret"
LONGEST = 20.0
"""Seconds that no head may take, however busy the machine is; they take milliseconds."""
MOST = 40 * HEAD
"""Bytes of memory that no head may take."""
MAGICS = (
    b"",
    b"QFI\xfb\0\0\0\3",
    b"QFI\xfb\0\0\0\2",
    b"QED\0",
    b"KDMV\1\0\0\0",
    b"# Disk DescriptorFile\n",
    b"vhdxfile",
    b"conectix",
    bytes(64) + b"\x7f\x10\xda\xbe",
    b"LUKS\xba\xbe",
    *PARALLELS,
)


def answer(head: bytes, length: int, format: str) -> int | None:
    """How large an image's disk is; C{None}: it is refused, in words."""
    try:
        return disk_size(head, length, format)
    except Conflict as error:
        assert str(error).endswith("."), error
        return None


def made(*options: str) -> bytes:
    """What qemu-img makes, of 4 MiB."""
    file = Path("made.img").absolute()
    for tries_left in reversed(range(20)):
        # On a busy machine qemu-img can't measure how much work LUKS may make of a password, and gives up.
        done = subprocess.run(["qemu-img", "create", "-q", *options, str(file), "4M"], check=not tries_left)
        if not done.returncode:
            break
    data = file.read_bytes()
    file.unlink()
    return data


class HeadTests(SynchronousTestCase):
    def test_nothing_that_looks_like_another_format_is_raw(self) -> None:
        for what, head in heads(SECRET).items():
            if what in ("LUKS", "Bochs", "cloop", "DMG", "QEMU's options"):
                continue
            for whole in (head, head.ljust(MIB, b"\0")):
                with self.assertRaisesRegex(Conflict, "The file is not a raw image: it starts like a", msg=what):
                    disk_size(whole, len(whole), "raw")

    def test_what_qemu_makes(self) -> None:
        if shutil.which("qemu-img") is None:
            self.fail("qemu-img is missing (qemu-utils)")
        for format in ("qcow", "qcow2", "qed", "vdi", "vhdx", "vmdk", "vpc", "parallels"):
            data = made("-f", format)
            with self.assertRaisesRegex(Conflict, "starts like a", msg=format):
                disk_size(data[:HEAD], len(data), "raw")
        for options in (
            (),
            ("-o", "compat=0.10"),
            ("-o", "cluster_size=512"),
            ("-o", "cluster_size=2M"),
            ("-o", "preallocation=full"),
            ("-o", "preallocation=full,cluster_size=512,refcount_bits=64"),
            ("-o", "lazy_refcounts=on"),
            ("-o", "preallocation=metadata,cluster_size=2M"),
            ("-o", "compression_type=zstd"),
        ):
            data = made("-f", "qcow2", *options)
            self.assertEqual(disk_size(data[:HEAD], len(data), "qcow2"), 4 * MIB, options)
        refused: tuple[tuple[tuple[str, ...], str], ...] = (
            (("-F", "raw", "-b", "/etc/hostname"), "standalone"),
            (("-o", "data_file=data.img"), "standalone"),
            (("--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"), "encrypted"),
            (("-o", "extended_l2=on,cluster_size=128k"), "features"),
        )
        for more, words in refused:
            data = made("-f", "qcow2", *more)
            with self.assertRaisesRegex(Conflict, words):
                disk_size(data[:HEAD], len(data), "qcow2")

    def test_a_file_with_more_than_its_disk(self) -> None:
        data = made("-f", "qcow2")
        with self.assertRaisesRegex(Conflict, "holds more data than its disk"):
            disk_size(data[:HEAD], 100 * MIB, "qcow2")
        with self.assertRaisesRegex(Conflict, "contains snapshots"):
            disk_size(data[:60] + b"\0\0\0\1" + data[64:HEAD], len(data), "qcow2")

    def test_sizes_that_none_has(self) -> None:
        for size in (0, 2**31 * MIB, 2**61, 2**63, 2**64 - 1):
            with self.assertRaisesRegex(Conflict, "must be 1 byte to"):
                disk_size(qcow2(size=size), 1000, "qcow2")
        with self.assertRaisesRegex(Conflict, "must be 1 byte to"):
            disk_size(bytes(512), 2**61, "raw")

    def test_raw_images(self) -> None:
        mbr = bytes(446) + b"\x80\0\2\0\x83\0\0\0\1\0\0\0\1\0\0\0" + bytes(48) + b"\x55\xaa"
        cd = bytes(32768) + b"\1CD001\1" + bytes(2041)
        luks = heads(SECRET)["LUKS"]
        # The last makes oslo.utils' inspector of VMDK raise AttributeError.
        for head in (bytes(512), b"x", mbr, cd, mbr + cd[512:], luks, b"a text\n" * 100 + b"\xff" * 1000):
            self.assertEqual(disk_size(head, len(head) + 5, "raw"), len(head) + 5)

    def test_oslo_utils_says_nothing_of_its_own(self) -> None:
        said: list[logging.LogRecord] = []
        handler = logging.Handler()
        self.patch(handler, "emit", said.append)
        logging.getLogger().addHandler(handler)
        self.addCleanup(logging.getLogger().removeHandler, handler)
        for head in (qcow2(backing=SECRET), vmdk(SECRET), vmdk(SECRET).ljust(600, b"x") + b"\xff"):
            for format in ("raw", "qcow2"):
                answer(head, len(head), format)
        self.assertEqual(said, [])


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Heads with a known beginning, lies in the middle, and much of something behind."""
    head = bytearray(draw(st.sampled_from([*heads(SECRET).values(), *MAGICS])))
    for _ in range(draw(st.integers(0, 6))):
        number = draw(st.one_of(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1)))
        lie = draw(st.sampled_from([">Q", "<Q"]))
        at = draw(st.integers(0, 600))
        head.extend(bytes(max(0, at + 8 - len(head))))
        struct.pack_into(lie, head, at, number)
    filling = draw(
        st.sampled_from([b"", b"\0", b"\n", b"=", b"a=b\n", b'RW 1 FLAT "/x"\n', b"\xff", b'createType="', b"metadata"])
    )
    tail = draw(st.binary(max_size=200)) + filling * draw(st.sampled_from([0, 1, 100, 100000]))
    return (bytes(head) + tail)[:HEAD]


class HostileTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(head=hostile(), beyond=st.sampled_from([0, 1, MIB, 2**40, 2**62]), format=st.sampled_from(["raw", "qcow2"]))
    def test_an_answer_or_a_refusal(self, head: bytes, beyond: int, format: str) -> None:
        length = len(head) + beyond
        began = time.thread_time()
        tracemalloc.start()
        try:
            size = answer(head, length, format)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, MOST)
        self.assertLess(time.thread_time() - began, LONGEST)
        if size is not None:
            self.assertTrue(0 < size < 2**31 * MIB)
            if format == "raw":
                self.assertEqual(size, length)
            else:
                # No file that it names, nothing hidden, and not more in it than is counted.
                self.assertTrue(head.startswith((b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\3")))
                self.assertEqual(head[8:16], bytes(8))
                self.assertEqual(head[60:64], bytes(4))
                self.assertLessEqual(length, size + size // 16 + (8 << 21))
