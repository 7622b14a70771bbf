"""libvirt's networks, and attaching interfaces to domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import libvirt
from zope.interface import implementer

from fluidvm.driver import (
    AlreadyThere,
    DomainInterface,
    DomainSpec,
    DomainState,
    INetworks,
    Network,
    NoSuchThing,
    WrongState,
)
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.disks import LET_GO, places
from fluidvm.drivers.libvirt.domain_xml import interface_xml, parse_domain
from fluidvm.drivers.libvirt.domains import LibvirtDomains
from fluidvm.drivers.libvirt.errors import code_of

_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE
_CHANGEABLE = (DomainState.STOPPED, DomainState.CRASHED, DomainState.RUNNING, DomainState.PAUSED)


@implementer(INetworks)
class LibvirtNetworks(LibvirtDomains):
    """A host with networks."""

    def _interface_xml(self, interface: DomainInterface) -> str:
        """An interface's definition for this hypervisor."""
        return interface_xml(interface)

    @verb
    async def list_networks(self) -> Sequence[Network]:
        return await self._call("the list of networks", self._do_networks)

    def _do_networks(self) -> Sequence[Network]:
        found = []
        for network in self._connection.listAllNetworks(0):
            try:
                found.append(Network(network.name(), bool(network.isActive()), self._do_bridge(network)))
            except libvirt.libvirtError as error:
                # It was removed after the listing.
                if code_of(error) != libvirt.VIR_ERR_NO_NETWORK:
                    raise
        return found

    def _do_bridge(self, network: Any) -> str:
        try:
            return str(network.bridgeName())
        except libvirt.libvirtError as error:
            # Networks of other kinds have no bridge, which libvirt reports with this code.
            if code_of(error) != libvirt.VIR_ERR_INTERNAL_ERROR or not self._alive():
                raise
            return ""

    def _do_check_network(self, name: str) -> None:
        try:
            self._connection.networkLookupByName(name)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_NO_NETWORK:
                raise NoSuchThing(f"The host has no network {name}.") from error
            raise

    def _do_define(self, spec: DomainSpec, text: str) -> None:
        for interface in spec.interfaces:
            self._do_check_network(interface.network)
        super()._do_define(spec, text)

    @verb
    async def attach_interface(self, uuid: str, interface: DomainInterface) -> None:
        await self._call(f"interface {interface.mac} of domain {uuid}", self._do_attach_interface, uuid, interface)

    def _do_attach_interface(self, uuid: str, interface: DomainInterface) -> None:
        domain = self._do_with_interfaces(uuid)
        flags = 0
        for flag, look in places(domain):
            there = _find(domain.XMLDesc(look), interface.mac)
            if there is None:
                flags |= flag
            elif there.network != interface.network:
                raise AlreadyThere(
                    f"Domain {domain.name()} already has interface {interface.mac} in network {there.network}."
                )
        if flags:
            self._do_check_network(interface.network)
            domain.attachDeviceFlags(self._interface_xml(interface), flags)

    def _do_with_interfaces(self, uuid: str) -> Any:
        domain = self._do_find(uuid)
        state = self._do_state(domain)
        if state not in _CHANGEABLE:
            raise WrongState(
                f"Domain {domain.name()} is {state}; its interfaces can be changed only while it is running or stopped."
            )
        return domain

    @verb
    async def detach_interface(self, uuid: str, mac: str) -> None:
        subject = f"interface {mac} of domain {uuid}"
        if await self._call(subject, self._do_begin_detach_interface, uuid, mac):
            deadline = self._seconds() + LET_GO
            while await self._call(subject, self._do_has_interface, uuid, mac):
                if self._seconds() >= deadline:
                    raise WrongState(
                        f"The guest of domain {uuid} didn't release interface {mac} within {LET_GO:g} s; stop it first."
                    )
                await self._wait()
        await self._call(subject, self._do_end_detach_interface, uuid, mac)

    def _do_has_interface(self, uuid: str, mac: str) -> bool:
        return _find(self._do_find(uuid).XMLDesc(0), mac) is not None

    def _do_begin_detach_interface(self, uuid: str, mac: str) -> bool:
        """Ask the guest to release the interface. Returns whether there is something to wait for."""
        domain = self._do_with_interfaces(uuid)
        there = _find(domain.XMLDesc(0), mac)
        if not domain.isActive() or there is None:
            return False
        if self._do_state(domain) is not DomainState.RUNNING:
            raise WrongState(f"Domain {domain.name()} is paused; its guest can release an interface only while it runs.")
        try:
            domain.detachDeviceFlags(self._interface_xml(there), _LIVE)
        except libvirt.libvirtError as error:
            # An earlier request is still in progress: wait for it.
            if not self._alive() or not domain.isActive() or code_of(error) == libvirt.VIR_ERR_OPERATION_INVALID:
                raise
            self._log.info("Domain {uuid}, interface {mac}: {error}", uuid=uuid, mac=mac, error=error)
        return True

    def _do_end_detach_interface(self, uuid: str, mac: str) -> None:
        domain = self._do_find(uuid)
        there = _find(domain.XMLDesc(_INACTIVE), mac) if domain.isPersistent() else None
        if there is None:
            return
        try:
            domain.detachDeviceFlags(self._interface_xml(there), _CONFIG)
        except libvirt.libvirtError:
            if domain.isActive() and self._alive():
                domain.attachDeviceFlags(self._interface_xml(there), _LIVE)
            raise


def _find(definition: str, mac: str) -> DomainInterface | None:
    wanted = mac.lower()
    return next((interface for interface in parse_domain(definition).interfaces if interface.mac == wanted), None)
