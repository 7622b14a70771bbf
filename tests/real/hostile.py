"""Every format that QEMU knows, made to name a file of the host's wherever the format can."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from twisted.trial.unittest import TestCase

from fluidvm.conformance.heads import heads

MIB = 2**20
WORDS = b"A SECRET OF ROOT'S "
MADE_BY_HAND = ("LUKS", "qcow2 of 8 EiB", "Bochs", "cloop", "DMG", "QEMU's options", "VMDK with an extent")
"""The heads that qemu-img doesn't make, or (LUKS) doesn't on a busy machine."""
SIZE = 4
"""MiB of what is made."""


@dataclass
class Secret:
    """A file that only root may read; it must stay as it is, and nothing of it may come out."""

    path: Path

    def write(self) -> None:
        """Make it."""
        self.path.write_bytes(WORDS * 20000)
        self.path.chmod(0o600)

    def is_in(self, data: bytes) -> bool:
        """Whether something of it has come out."""
        return WORDS in data

    def state(self) -> tuple[int, int, int, bytes]:
        """What it is."""
        told = self.path.stat()
        return told.st_size, told.st_mtime_ns, told.st_mode, self.path.read_bytes()


def _made(directory: Path, format: str, *options: str) -> bytes:
    file = directory / "made"
    command = ["qemu-img", "create", "-q", "-f", format, *options, str(file), f"{SIZE}M"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    data = file.read_bytes()
    file.unlink()
    return data


def _leading(directory: Path, secret: Path, subformat: str) -> bytes:
    """A VMDK descriptor whose extent is another file, which it names by its whole path here."""
    descriptor = directory / "made.vmdk"
    options = ["-o", f"subformat={subformat}", str(descriptor), f"{SIZE}M"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", *options], check=True, capture_output=True)
    text = descriptor.read_bytes()
    for extent in directory.glob("made-*.vmdk"):
        text = text.replace(extent.name.encode(), str(secret).encode())
        extent.unlink()
    descriptor.unlink()
    return text


def images(directory: Path, secret: Path) -> dict[str, bytes]:
    """
    Make an image of each format, of L{SIZE} MiB at most.

    @param directory: an empty one, for what is made on the way.
    @param secret: the file that they name, which isn't there yet.
    """
    backing = ("-u", "-b", str(secret), "-F", "raw")
    found = {
        "raw": _made(directory, "raw"),
        "qcow": _made(directory, "qcow", *backing),
        "qcow2": _made(directory, "qcow2", *backing),
        "qcow2 version 2": _made(directory, "qcow2", "-o", "compat=0.10", *backing),
        "qed": _made(directory, "qed", *backing),
        "qed, any backing": _made(directory, "qed", *backing[:3], "-F", "qcow2"),
        "vmdk": _made(directory, "vmdk", "-o", "subformat=monolithicSparse"),
        "vmdk flat": _leading(directory, secret, "monolithicFlat"),
        "vmdk in parts": _leading(directory, secret, "twoGbMaxExtentFlat"),
        "vdi": _made(directory, "vdi"),
        "vpc": _made(directory, "vpc"),
        "vpc fixed": _made(directory, "vpc", "-o", "subformat=fixed"),
        "parallels": _made(directory, "parallels"),
        "vhdx": _made(directory, "vhdx", "-o", "block_size=1M,log_size=1M"),
    }
    # It makes that file.
    found["qcow2 with a data file"] = _made(directory, "qcow2", "-o", f"data_file={secret}")
    by_hand = heads(str(secret).encode())
    return found | {what: by_hand[what] for what in MADE_BY_HAND}


def hidden(case: TestCase, directory: Path) -> tuple[Secret, dict[str, bytes]]:
    """
    Write a secret into a directory of the host's until a test ends, and make the images that name it.

    @return: it, and L{images}.
    """
    secret = Secret(directory / "secret")
    made = Path(case.mktemp())
    made.mkdir()
    found = images(made, secret.path)
    secret.write()
    case.addCleanup(secret.path.unlink)
    return secret, found
