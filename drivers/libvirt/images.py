"""Reading and writing the contents of volumes, through libvirt's streams."""

from __future__ import annotations

from zope.interface import implementer

from fluidvm.driver import DriverError, IImages, WrongState
from fluidvm.drivers.libvirt.bytes import file_size, read, write
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.volumes import LibvirtVolumes


@implementer(IImages)
class LibvirtImages(LibvirtVolumes):
    """A host on which the contents of volumes can be read and written."""

    @verb
    async def measure_volume(self, pool: str, name: str, format: str) -> int:
        subject = f"volume {name} in storage pool {pool}"
        return await self._call(subject, lambda: file_size(self._connection, self._do_existing(pool, name)))

    @verb
    async def read_volume(self, pool: str, name: str, format: str, offset: int, length: int) -> bytes:
        subject = f"volume {name} in storage pool {pool}"
        return await self._call_in(self._host.run_long, subject, self._do_read, pool, name, offset, length)

    def _do_read(self, pool: str, name: str, offset: int, length: int) -> bytes:
        volume = self._do_existing(pool, name)
        self._do_check_unused(volume)
        length = min(length, file_size(self._connection, volume) - offset)
        if length <= 0:
            return b""
        found = read(self._connection, volume, offset, length)
        if len(found) != length:
            raise DriverError(f"Only {len(found)} of {length} bytes could be read from volume {name}.")
        return found

    @verb
    async def write_volume(self, pool: str, name: str, format: str, offset: int, data: bytes) -> None:
        subject = f"volume {name} in storage pool {pool}"
        await self._call_in(self._host.run_long, subject, self._do_write, pool, name, format, offset, data)

    def _do_write(self, pool: str, name: str, format: str, offset: int, data: bytes) -> None:
        volume = self._do_existing(pool, name)
        self._do_check_unused(volume)
        if format == "raw" and offset + len(data) > file_size(self._connection, volume):
            raise WrongState(f"Volume {name} ends before byte {offset + len(data)}.")
        write(self._connection, volume, offset, data)
