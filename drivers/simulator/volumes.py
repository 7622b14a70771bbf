"""Resizing and copying the simulator's volumes."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import DomainDisk, IDiskResize, IVolumes, NoSuchThing, Pool, Progress, Volume, WrongState
from fluidvm.drivers.simulator.host import OFF, POOL, SimulatedHost, key_of

MIB = 2**20
QCOW2_SIZE = 24
"""Where a qcow2 image has its size in bytes (QEMU's docs/interop/qcow2.txt)."""
LARGE = 2**31 - 1
"""The reported size of an unlimited pool in MiB."""


def pools(host: SimulatedHost) -> list[Pool]:
    """List the host's storage pools."""
    capacity = host.options.get("pool_size", LARGE)
    return [Pool(POOL, capacity, max(0, capacity - sum(volume.size for volume in host.volumes(POOL))))]


def volume(host: SimulatedHost, pool: str, name: str, format: str) -> Volume:
    """Return one volume. @raise WrongState: it has another format."""
    for found in host.volumes(pool):
        if found.name == name:
            check_format(found, format)
            return found
    raise NoSuchThing(f"There is no volume {name} in storage pool {pool}.")


def check_format(there: Volume, format: str) -> None:
    """Check a volume's format. @raise WrongState: it has another one."""
    if there.format != format:
        raise WrongState(f"Volume {there.name} has format {there.format}, not {format}.")


def _check_unused(host: SimulatedHost, path: str) -> None:
    for domain in host.domains():
        if domain.state not in OFF and any(disk.path == path for disk in domain.disks):
            raise WrongState(f"The volume is in use by domain {domain.name}, which is running.")


def _grow(host: SimulatedHost, there: Volume, size: int) -> Volume:
    if size < there.size:
        raise WrongState(f"Volume {there.name} has {there.size} MiB already: it can't be made smaller.")
    host.check_room(size - there.size)
    grown = replace(there, size=size)
    host.put_volume(grown)
    file = host.bytes_of(key_of(there.pool, there.name))
    if there.format == "qcow2" and file.exists():
        with file.open("r+b") as opened:  # as QEMU does: the size stands in the image's head
            opened.seek(QCOW2_SIZE)
            opened.write(struct.pack(">Q", size * MIB))
    return grown


def resize(host: SimulatedHost, pool: str, name: str, format: str, size: int) -> Volume:
    """Make a volume larger."""
    there = volume(host, pool, name, format)
    if size != there.size:
        _check_unused(host, there.path)
    return _grow(host, there, size)


def resize_disk(host: SimulatedHost, uuid: str, disk: DomainDisk, size: int) -> None:
    """Make a running domain's disk larger."""
    domain = host.domain(uuid)
    if domain.state in OFF:
        raise WrongState(f"Domain {domain.name} isn't running.")
    if disk not in domain.disks:
        raise NoSuchThing(f"Domain {domain.name} has no disk {disk.target}.")
    _grow(host, next(one for one in host.all_volumes() if one.path == disk.path), size)


def clone(host: SimulatedHost, pool: str, name: str, format: str, new: str) -> Volume:
    """Copy a volume."""
    there = volume(host, pool, name, format)
    is_new = all(other.name != new for other in host.volumes(pool))
    if is_new:
        _check_unused(host, there.path)
    copy = host.create_volume(pool, new, there.size, there.format)
    written = host.bytes_of(key_of(pool, name))
    if is_new and written.exists():
        shutil.copyfile(written, host.bytes_of(key_of(pool, new)))
    return copy


@implementer(IVolumes, IDiskResize)
class SimulatedVolumes:
    """The verbs of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def list_pools(self) -> Deferred[Sequence[Pool]]:
        """List the storage pools."""
        return self._do("list_pools", lambda: pools(self.simulated))

    def resize_volume(self, pool: str, name: str, format: str, size: int) -> Deferred[Volume]:
        """Make a volume larger."""
        return self._do("resize_volume", lambda: resize(self.simulated, pool, name, format, size), subject=name)

    def resize_disk(self, uuid: str, disk: DomainDisk, size: int) -> Deferred[None]:
        """Make a running domain's disk larger."""
        return self._do("resize_disk", lambda: resize_disk(self.simulated, uuid, disk, size), subject=uuid)

    def clone_volume(self, pool: str, name: str, format: str, new: str, progress: Progress) -> Deferred[Volume]:
        """Copy a volume."""
        return self._do("clone_volume", lambda: clone(self.simulated, pool, name, format, new), progress, new)
