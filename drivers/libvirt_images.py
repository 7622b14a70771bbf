"""Volumes' bytes, through libvirt's streams."""

from __future__ import annotations

from typing import Any

import libvirt
from zope.interface import implementer

from fluidvm.driver import DriverError, IImages, WrongState

from .libvirt_connection import verb
from .libvirt_disks import _describe
from .libvirt_migration import CHUNK, _do_abort
from .libvirt_volumes import LibvirtVolumes


@implementer(IImages)
class LibvirtImages(LibvirtVolumes):
    """A host whose volumes' bytes can be read and written."""

    @verb
    async def measure_volume(self, pool: str, name: str) -> int:
        subject = f"volume {name} in storage pool {pool}"
        return await self._call(subject, lambda: _size(self._do_existing(pool, name)))

    @verb
    async def read_volume(self, pool: str, name: str, offset: int, length: int) -> bytes:
        subject = f"volume {name} in storage pool {pool}"
        return await self._call_in(self._host.run_long, subject, self._do_read, pool, name, offset, length)

    def _do_read(self, pool: str, name: str, offset: int, length: int) -> bytes:
        volume = self._do_existing(pool, name)
        self._do_check_unused(volume)
        length = min(length, _size(volume) - offset)
        if length <= 0:
            return b""
        stream = self._connection.newStream()
        found = bytearray()
        try:
            volume.download(stream, offset, length)
            while data := stream.recv(CHUNK):
                found += data
            stream.finish()
        except libvirt.libvirtError:
            _do_abort([stream])
            raise
        if len(found) != length:
            raise DriverError(f"Volume {name} gave {len(found)} bytes of {length}.")
        return bytes(found)

    @verb
    async def write_volume(self, pool: str, name: str, offset: int, data: bytes) -> None:
        subject = f"volume {name} in storage pool {pool}"
        await self._call_in(self._host.run_long, subject, self._do_write, pool, name, offset, data)

    def _do_write(self, pool: str, name: str, offset: int, data: bytes) -> None:
        volume = self._do_existing(pool, name)
        self._do_check_unused(volume)
        if _describe(pool, volume).format == "raw" and offset + len(data) > _size(volume):
            raise WrongState(f"Volume {name} ends before byte {offset + len(data)}.")
        stream = self._connection.newStream()
        try:
            volume.upload(stream, offset, len(data))
            view = memoryview(data)
            while view:
                view = view[stream.send(bytes(view[:CHUNK])) :]
            stream.finish()
        except libvirt.libvirtError:
            _do_abort([stream])
            raise


def _size(volume: Any) -> int:
    """Its file's bytes."""
    return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])
