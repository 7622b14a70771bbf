"""Descriptions of domains that somebody else created, as FluidVM would define them, and the volumes of their disks."""

from __future__ import annotations

from pathlib import PurePosixPath

import libvirt
from zope.interface import implementer

from fluidvm.driver import DomainSpec, IAdoption, NoSuchThing, Unsupported, Volume, WrongState
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.disks import LibvirtDisks, checked
from fluidvm.drivers.libvirt.errors import code_of
from fluidvm.drivers.libvirt.foreign_xml import read_spec

_NONE = (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL)


@implementer(IAdoption)
class LibvirtAdoption(LibvirtDisks):
    """A host whose domains can be adopted."""

    @verb
    async def get_spec(self, uuid: str) -> DomainSpec:
        machine = (await self.platform(uuid)).machine
        return await self._call(f"definition of domain {uuid}", self._do_get_spec, uuid, machine)

    def _do_get_spec(self, uuid: str, machine: str) -> DomainSpec:
        domain = self._do_find(uuid)
        if not domain.isPersistent():
            raise Unsupported(
                f"Domain {domain.name()} can't be taken over: it is transient, so the host removes it when it stops."
            )
        return read_spec(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), machine, bool(domain.autostart()))

    @verb
    async def volume_of(self, path: str, format: str) -> Volume:
        return await self._call(f"volume {path}", self._do_volume_of, path, format)

    def _do_volume_of(self, path: str, format: str) -> Volume:
        try:
            pool = self._connection.storagePoolLookupByTargetPath(str(PurePosixPath(path).parent))
            self._do_pool(pool.name())
            volume = self._connection.storageVolLookupByPath(path)
            return checked(self._connection, pool.name(), volume, format)
        except WrongState as error:
            raise Unsupported(f"{path} doesn't have format {format}, which the domain's definition gives it.") from error
        except libvirt.libvirtError as error:
            if code_of(error) in _NONE:
                raise NoSuchThing(f"{path} isn't in a storage pool of the host.") from error
            raise
