"""The core of every driver, through libvirt: describing, defining and controlling domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import libvirt
from zope.interface import implementer

from fluidvm.driver import (
    AlreadyThere,
    DomainInfo,
    DomainSpec,
    DomainState,
    HostInfo,
    IConnection,
    NoSuchThing,
    WrongState,
)
from fluidvm.drivers.libvirt.connection import LibvirtConnection, dotted, verb
from fluidvm.drivers.libvirt.domain_xml import Platform, domain_xml, parse_domain
from fluidvm.drivers.libvirt.errors import code_of

_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE


@implementer(IConnection)
class LibvirtDomains(LibvirtConnection):
    """A host's domains."""

    hypervisor = "libvirt"
    undefine_flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    )

    # Methods that each hypervisor implements or overrides.

    async def definition(self, spec: DomainSpec) -> str:
        """A domain's definition for this hypervisor."""
        return domain_xml(spec, await self.platform(spec.uuid))

    async def platform(self, uuid: str) -> Platform:
        """The hypervisor's part of a domain's definition."""
        raise NotImplementedError

    async def version(self) -> str:
        """The hypervisor's name and version, with remarks if there are any."""
        number = await self._call("the host's version", self._connection.getVersion)
        return f"{self.hypervisor} {dotted(number)}"

    def _do_memory(self) -> int:
        """The host's memory in MiB."""
        # getInfo doesn't count memory that was plugged in after the host booted.
        return int(self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)["total"]) // 1024

    def _do_rename(self, uuid: str, name: str) -> None:
        self._do_find(uuid).rename(name, 0)

    # Queries.

    @verb
    async def host_info(self) -> HostInfo:
        version = await self.version()

        def ask() -> HostInfo:
            vcpus = self._connection.getInfo()[2]
            return HostInfo(vcpus, self._do_memory(), version, f"libvirt {dotted(self._connection.getLibVersion())}")

        return await self._call("the host's description", ask)

    @verb
    async def list_domains(self) -> Sequence[DomainInfo]:
        return await self._call("the list of domains", self._do_list)

    def _do_list(self) -> Sequence[DomainInfo]:
        found = []
        for domain in self._connection.listAllDomains(0):
            if self._hidden(domain):
                continue
            try:
                found.append(self._do_describe(domain))
            except libvirt.libvirtError as error:
                # It was removed after the listing.
                if code_of(error) != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
        return found

    @verb
    async def get_domain(self, uuid: str) -> DomainInfo:
        return await self._call(f"domain {uuid}", lambda: self._do_describe(self._do_find(uuid)))

    def _do_describe(self, domain: Any) -> DomainInfo:
        described = parse_domain(domain.XMLDesc(0))
        persistent = bool(domain.isPersistent())
        memory = described.memory
        if persistent and domain.isActive():
            # A running domain's own value is the current size of the balloon, which at boot isn't yet the requested one.
            memory = min(parse_domain(domain.XMLDesc(_INACTIVE)).memory, described.max_memory)
        return DomainInfo(
            uuid=described.uuid,
            name=described.name,
            state=self._do_state(domain),
            vcpus=described.vcpus,
            max_vcpus=described.max_vcpus,
            memory=memory,
            max_memory=described.max_memory,
            disks=described.disks,
            autostart=persistent and bool(domain.autostart()),
            interfaces=described.interfaces,
        )

    # Definitions.

    @verb
    async def define_domain(self, spec: DomainSpec) -> None:
        text = await self.definition(spec)
        await self._call(f"definition of domain {spec.name}", self._do_define, spec, text)

    def _do_define(self, spec: DomainSpec, text: str) -> None:
        before = None
        for domain in self._connection.listAllDomains(0):
            same = domain.UUIDString() == spec.uuid.lower()
            if same and (domain.isActive() or domain.hasManagedSaveImage(0)):
                raise WrongState(
                    f"Domain {spec.name} is {self._do_state(domain)}; its definition can be changed only when stopped."
                )
            if same:
                before = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            elif domain.name() == spec.name:
                raise AlreadyThere(f"Another domain, {domain.UUIDString()}, already has the name {spec.name}.")
        if before is not None and parse_domain(before).name != spec.name:
            # For libvirt another name means another domain; renaming is a separate step.
            self._do_rename(spec.uuid, spec.name)
        defined = None
        try:
            defined = self._connection.defineXML(text)
            defined.setAutostart(1 if spec.autostart else 0)
        except libvirt.libvirtError:
            if before is not None:
                if parse_domain(before).name != spec.name:
                    self._do_rename(spec.uuid, parse_domain(before).name)
                self._connection.defineXML(before)
            elif defined is not None:
                defined.undefineFlags(self.undefine_flags)
            raise

    @verb
    async def undefine_domain(self, uuid: str) -> None:
        await self._call(f"removal of domain {uuid}", self._do_undefine, uuid)

    def _do_undefine(self, uuid: str) -> None:
        try:
            domain = self._do_find(uuid)
        except NoSuchThing:
            return
        if domain.isActive():
            raise WrongState(
                f"Domain {domain.name()} is {self._do_state(domain)}; it can be removed only while it is stopped."
            )
        domain.undefineFlags(self.undefine_flags)

    # Power.

    async def _power(self, what: str, uuid: str, function: Callable[[Any, DomainState], None]) -> None:
        def act() -> None:
            domain = self._do_find(uuid)
            function(domain, self._do_state(domain))

        await self._call(f"{what} of domain {uuid}", act)

    @verb
    async def start(self, uuid: str) -> None:
        def act(domain: Any, state: DomainState) -> None:
            if state is DomainState.RUNNING:
                return
            if domain.isActive() or state is DomainState.SAVED:
                raise WrongState(f"Domain {domain.name()} is {state}; it can be started only while it is stopped.")
            try:
                domain.create()
            except libvirt.libvirtError as error:
                self._do_name_missing(domain, error)
                raise

        await self._power("start", uuid, act)

    def _do_name_missing(self, domain: Any, error: libvirt.libvirtError) -> None:
        """Report a missing file as the reason of a failed start: all of QEMU's own failures have the same code."""
        described = parse_domain(domain.XMLDesc(0))
        for path in (described.kernel, described.initrd, *(disk.path for disk in described.disks)):
            if path and self._do_exists(path) is False:
                raise NoSuchThing(f"Domain {described.name} needs {path}, which doesn't exist.") from error

    def _do_exists(self, path: str) -> bool | None:
        """Whether a file exists on the host; C{None}: unknown, as no storage pool contains its directory."""
        if self._local:
            return Path(path).exists()
        return None

    @verb
    async def shutdown(self, uuid: str) -> None:
        def act(domain: Any, state: DomainState) -> None:
            if not domain.isActive() or state is DomainState.STOPPING:
                return
            if state is not DomainState.RUNNING:
                raise WrongState(
                    f"Domain {domain.name()} is {state}; it can be asked to shut down only while it is running."
                )
            domain.shutdown()

        await self._power("shutdown", uuid, act)

    @verb
    async def stop(self, uuid: str) -> None:
        def act(domain: Any, _state: DomainState) -> None:
            if domain.hasManagedSaveImage(0):
                domain.managedSaveRemove(0)
            if not domain.isActive():
                return
            try:
                domain.destroy()
            except libvirt.libvirtError as error:
                # It ended by itself in between, as requested.
                if code_of(error) != libvirt.VIR_ERR_OPERATION_INVALID or domain.isActive():
                    raise

        await self._power("stop", uuid, act)

    @verb
    async def reboot(self, uuid: str) -> None:
        def act(domain: Any, state: DomainState) -> None:
            if state is not DomainState.RUNNING or not domain.isActive():
                raise WrongState(f"Domain {domain.name()} is {state}; it can be asked to reboot only while it is running.")
            domain.reboot(0)

        await self._power("reboot", uuid, act)

    @verb
    async def pause(self, uuid: str) -> None:
        def act(domain: Any, state: DomainState) -> None:
            if state is DomainState.PAUSED:
                return
            if state is not DomainState.RUNNING:
                raise WrongState(f"Domain {domain.name()} is {state}; it can be paused only while it is running.")
            domain.suspend()

        await self._power("pause", uuid, act)

    @verb
    async def resume(self, uuid: str) -> None:
        def act(domain: Any, state: DomainState) -> None:
            if state is DomainState.RUNNING:
                return
            if state is not DomainState.PAUSED:
                raise WrongState(f"Domain {domain.name()} is {state}; it can be resumed only while it is paused.")
            if domain.state()[0] == libvirt.VIR_DOMAIN_PMSUSPENDED:
                domain.pMWakeup(0)
            else:
                domain.resume()

        await self._power("resume", uuid, act)

    # Memory and CPUs in the definition.

    @verb
    # Of a stopped domain. For a running one see resize.py, for a new one domain_xml.py.
    async def set_memory(self, uuid: str, memory: int) -> None:
        def act() -> None:
            domain = self._do_stopped(uuid)
            before = parse_domain(domain.XMLDesc(_INACTIVE))
            maximum = max(memory, before.max_memory)
            try:
                domain.setMemoryFlags(maximum * 1024, _CONFIG | libvirt.VIR_DOMAIN_MEM_MAXIMUM)
                domain.setMemoryFlags(memory * 1024, _CONFIG)
            except libvirt.libvirtError:
                domain.setMemoryFlags(before.max_memory * 1024, _CONFIG | libvirt.VIR_DOMAIN_MEM_MAXIMUM)
                domain.setMemoryFlags(before.memory * 1024, _CONFIG)
                raise

        await self._call(f"memory of domain {uuid}", act)

    @verb
    async def set_vcpus(self, uuid: str, vcpus: int) -> None:
        await self._call(f"virtual CPUs of domain {uuid}", lambda: self._do_set_vcpus(self._do_stopped(uuid), vcpus))

    def _do_set_vcpus(self, domain: Any, vcpus: int) -> None:
        before = parse_domain(domain.XMLDesc(_INACTIVE))
        if vcpus > before.max_vcpus:
            domain.setVcpusFlags(vcpus, _CONFIG | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
        try:
            domain.setVcpusFlags(vcpus, _CONFIG)
        except libvirt.libvirtError:
            if vcpus > before.max_vcpus:
                domain.setVcpusFlags(before.max_vcpus, _CONFIG | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
            raise

    def _do_stopped(self, uuid: str) -> Any:
        domain = self._do_find(uuid)
        state = self._do_state(domain)
        if domain.isActive() or state is DomainState.SAVED:
            raise WrongState(f"Domain {domain.name()} is {state}; its definition can be changed only when stopped.")
        return domain
