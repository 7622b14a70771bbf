"""Resizing running domains through libvirt, by balloon and CPU hot-plug."""

from __future__ import annotations

from typing import Any

import libvirt
from twisted.internet.defer import CancelledError
from zope.interface import implementer

from fluidvm.driver import DomainState, DriverError, ILiveResize, Unreachable, WrongState
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domain_xml import parse_domain
from fluidvm.drivers.libvirt.domains import LibvirtDomains

FOLLOW = 20.0
"""Seconds in which a guest must adjust its balloon; a booting guest begins late."""

_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG


@implementer(ILiveResize)
class LibvirtResize(LibvirtDomains):
    """A host whose domains can be resized while they run."""

    def _do_running(self, uuid: str) -> Any:
        domain = self._do_find(uuid)
        state = self._do_state(domain)
        if state is not DomainState.RUNNING or not domain.isActive():
            raise WrongState(f"Domain {domain.name()} is {state}, not running.")
        return domain

    @verb
    async def resize_memory(self, uuid: str, memory: int) -> None:
        target = memory * 1024

        def begin() -> tuple[str, int]:
            domain = self._do_running(uuid)
            before = parse_domain(domain.XMLDesc(0))
            if memory > before.max_memory:
                raise WrongState(
                    f"Domain {before.name} can have at most {before.max_memory} MiB while it runs; "
                    f"stop it to give it {memory} MiB."
                )
            # The requested size of the balloon; its current size may still be changing.
            told = parse_domain(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) if domain.isPersistent() else before
            domain.setMemoryFlags(target, _LIVE)
            return before.name, min(told.memory, before.max_memory)

        name, before = await self._call(f"memory of domain {uuid}", begin)
        try:
            await self._follow(uuid, name, target)
            await self._call(f"memory of domain {name}", lambda: self._do_running(uuid).setMemoryFlags(target, _CONFIG))
        except (DriverError, CancelledError) as error:
            if not isinstance(error, Unreachable):
                await self._put_back(uuid, before * 1024)
            raise

    async def _follow(self, uuid: str, name: str, target: int) -> None:
        """Wait until the balloon has the requested size; only the guest's own driver changes it."""
        deadline = self._seconds() + FOLLOW
        while True:
            actual = await self._call(f"memory of domain {name}", lambda: self._do_running(uuid).memoryStats()["actual"])
            if abs(actual - target) < 1024:
                return
            if self._seconds() >= deadline:
                raise WrongState(
                    f"The guest of domain {name} didn't change its memory to {target // 1024} MiB within {FOLLOW:g} s; "
                    "stop it to change its memory."
                )
            await self._wait()

    async def _put_back(self, uuid: str, memory: int) -> None:
        try:
            await self._call("restoring the amount of memory", lambda: self._do_find(uuid).setMemoryFlags(memory, _LIVE))
        except DriverError as error:
            # The domain has stopped meanwhile: its definition wasn't changed.
            self._log.info("The memory of domain {uuid} wasn't set back: {error}", uuid=uuid, error=error)

    @verb
    async def resize_vcpus(self, uuid: str, vcpus: int) -> None:
        await self._call(f"virtual CPUs of domain {uuid}", self._do_resize_vcpus, uuid, vcpus)

    def _do_resize_vcpus(self, uuid: str, vcpus: int) -> None:
        domain = self._do_running(uuid)
        before = parse_domain(domain.XMLDesc(0))
        if vcpus > before.max_vcpus:
            raise WrongState(
                f"Domain {before.name} can have at most {before.max_vcpus} CPUs while it runs; stop it to give it {vcpus}."
            )
        try:
            if vcpus != before.vcpus:
                domain.setVcpusFlags(vcpus, _LIVE)
                if parse_domain(domain.XMLDesc(0)).vcpus != vcpus:
                    self._do_put_vcpus_back(domain, before.vcpus)
                    raise self._refusal(before.name)
            domain.setVcpusFlags(vcpus, _CONFIG)
        except libvirt.libvirtError as error:
            if not self._alive():
                raise
            self._do_put_vcpus_back(domain, before.vcpus)
            if vcpus < before.vcpus:
                raise self._refusal(before.name) from error
            raise

    def _refusal(self, name: str) -> WrongState:
        return WrongState(f"The guest of domain {name} doesn't release virtual CPUs; stop it to give it fewer.")

    def _do_put_vcpus_back(self, domain: Any, vcpus: int) -> None:
        if parse_domain(domain.XMLDesc(0)).vcpus != vcpus:
            domain.setVcpusFlags(vcpus, _LIVE)
