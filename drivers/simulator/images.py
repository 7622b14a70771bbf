"""The contents of the simulator's volumes: a sparse file for each volume to which something was written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import IImages, Volume, WrongState
from fluidvm.drivers.simulator.host import SimulatedHost, key_of
from fluidvm.drivers.simulator.volumes import _check_unused, volume

MIB = 2**20


def place(host: SimulatedHost, there: Volume) -> Path:
    """The file of a volume."""
    return host.bytes_of(key_of(there.pool, there.name))


def measure(host: SimulatedHost, pool: str, name: str, format: str) -> int:
    """Return the number of a volume's bytes."""
    there = volume(host, pool, name, format)
    file = place(host, there)
    return there.size * MIB if there.format == "raw" else file.stat().st_size if file.exists() else len(head(there))


def head(there: Volume) -> bytes:
    """The complete contents of an empty qcow2 volume, version 2 (QEMU's docs/interop/qcow2.txt)."""
    size, cluster_bits = there.size * MIB, 16
    return b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQ", 2, 0, 0, cluster_bits, size, 0, 0, 0, 0, 0, 0, 0)


def read(host: SimulatedHost, pool: str, name: str, format: str, offset: int, length: int) -> bytes:
    """Read a piece of a volume."""
    there = volume(host, pool, name, format)
    _check_unused(host, there.path)
    file = place(host, there)
    data = b""
    if file.exists():
        with file.open("rb") as opened:
            opened.seek(offset)
            data = opened.read(length)
    elif there.format == "qcow2":
        data = head(there)[offset : offset + length]
    if there.format == "raw":
        data = data.ljust(max(0, min(length, there.size * MIB - offset)), b"\0")
    return data


def write(host: SimulatedHost, pool: str, name: str, format: str, offset: int, data: bytes) -> None:
    """Write a piece of a volume."""
    there = volume(host, pool, name, format)
    _check_unused(host, there.path)
    if there.format == "raw" and offset + len(data) > there.size * MIB:
        raise WrongState(f"Volume {name} ends before byte {offset + len(data)}.")
    file = place(host, there)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.open("r+b" if file.exists() else "w+b") as opened:
        opened.seek(offset)
        opened.write(data)


@implementer(IImages)
class SimulatedImages:
    """The verbs of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def measure_volume(self, pool: str, name: str, format: str) -> Deferred[int]:
        """Return the number of a volume's bytes."""
        return self._do("measure_volume", lambda: measure(self.simulated, pool, name, format))

    def read_volume(self, pool: str, name: str, format: str, offset: int, length: int) -> Deferred[bytes]:
        """Read a piece of a volume."""
        return self._do("read_volume", lambda: read(self.simulated, pool, name, format, offset, length))

    def write_volume(self, pool: str, name: str, format: str, offset: int, data: bytes) -> Deferred[None]:
        """Write a piece of a volume."""
        return self._do("write_volume", lambda: write(self.simulated, pool, name, format, offset, data))
