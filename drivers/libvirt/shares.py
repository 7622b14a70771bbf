"""Shares and rate limits of QEMU's domains, through libvirt: CPUs by control groups, disks by QEMU's throttling."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import libvirt
from zope.interface import implementer

from fluidvm.driver import DomainSpec, DriverError, IShares, Shares, Unsupported
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.disks import LibvirtDisks, places
from fluidvm.drivers.libvirt.domain_xml import PROBE_PREFIX, parse_domain, probe_xml
from fluidvm.drivers.libvirt.errors import code_of

MIB = 2**20
USUAL = Shares().cpu_shares
MOST_V2 = 10000
"""The maximum weight in a control group of version 2 (Linux's Documentation/admin-guide/cgroup-v2, C{cpu.weight})."""


def to_host(shares: int, usual: int) -> int:
    """
    Convert CPU shares to a weight of the host.

    @param usual: the host's default weight: 1024 in control groups of version 1, 100 in version 2, where libvirt passes
        the number on unchanged (U{https://libvirt.org/formatdomain.html#cpu-tuning}).
    """
    if usual == USUAL:
        return shares
    return min(MOST_V2, max(1, round(shares * usual / USUAL)))


def from_host(weight: int, usual: int) -> int:
    """Convert a weight of the host back to CPU shares, as exactly as the host's scale allows."""
    return weight if usual == USUAL else max(2, round(weight * USUAL / usual))


@implementer(IShares)
class LibvirtShares(LibvirtDisks):
    """
    A host whose domains can have CPU shares and rate limits for disks.

    Rate limits for interfaces aren't supported: libvirt sets them up with C{tc}, and if the kernel lacks a part of that, a
    domain with such a limit doesn't start.
    """

    _usual: int | None = None
    _proven = False

    async def definition(self, spec: DomainSpec) -> str:
        shares = spec.shares
        if shares.cpu_shares != USUAL:
            usual = await self._usual_weight()
            shares = replace(shares, cpu_shares=USUAL if usual is None else to_host(shares.cpu_shares, usual))
        return await super().definition(replace(spec, shares=shares))

    async def _usual_weight(self) -> int | None:
        """The default weight of the host's domains; C{None} if they have none. Tested once."""
        if not self._proven:
            name = f"{PROBE_PREFIX}{uuids.uuid4()}"
            text = probe_xml(name, await self.platform(""), "", "")
            self._usual = await self._call("support of CPU shares", self._do_try_weight, text)
            self._proven = True
        return self._usual

    def _do_try_weight(self, text: str) -> int | None:
        """Find the default weight: libvirt reports only for a domain that has started whether it has a CPU control group."""
        domain = self._connection.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY)
        try:
            return int(domain.schedulerParametersFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)["cpu_shares"])
        except libvirt.libvirtError as error:
            # "cgroup CPU controller is not mounted" is an invalid operation.
            if code_of(error) != libvirt.VIR_ERR_OPERATION_INVALID or not domain.isActive():
                raise
            return None
        finally:
            domain.destroy()

    @verb
    async def shareable(self) -> Sequence[str]:
        weighs = await self._usual_weight() is not None
        return (*(("cpu_shares",) if weighs else ()), "disk_iops", "disk_mbps")

    @verb
    async def set_shares(self, uuid: str, shares: Shares) -> None:
        if shares.network_mbps is not None:
            raise Unsupported(f"Domain {uuid}: the host can't limit the rate of interfaces.")
        usual = await self._usual_weight()
        if usual is None and shares.cpu_shares != USUAL:
            raise Unsupported(f"Domain {uuid}: the host doesn't support CPU shares, as it has no control group for CPUs.")
        await self._call(f"shares of domain {uuid}", self._do_set_shares, uuid, shares, usual)

    def _do_set_shares(self, uuid: str, shares: Shares, usual: int | None) -> None:
        domain = self._do_find(uuid)
        before = [(flag, _read(domain.XMLDesc(look), usual)) for flag, look in places(domain)]
        try:
            for flag, _ in before:
                _do_put(domain, flag, shares, usual)
        except libvirt.libvirtError as error:
            for flag, held in before:
                try:
                    _do_put(domain, flag, held, usual)
                except libvirt.libvirtError as again:
                    self._log.info("The shares of domain {uuid} weren't set back: {error}", uuid=uuid, error=again)
            if code_of(error) == libvirt.VIR_ERR_CONFIG_UNSUPPORTED:
                raise DriverError(f"Shares of domain {domain.name()}: {error.get_error_message()}") from error
            raise

    @verb
    async def get_shares(self, uuid: str) -> Shares:
        usual = await self._usual_weight()
        return await self._call(f"shares of domain {uuid}", lambda: _read(self._do_find(uuid).XMLDesc(0), usual))


def _do_put(domain: Any, flag: int, shares: Shares, usual: int | None) -> None:
    look = 0 if flag == libvirt.VIR_DOMAIN_AFFECT_LIVE else libvirt.VIR_DOMAIN_XML_INACTIVE
    text = domain.XMLDesc(look)
    if usual is not None and _read(text, usual).cpu_shares != shares.cpu_shares:
        # libvirt refuses to change both definitions at once.
        domain.setSchedulerParametersFlags({"cpu_shares": to_host(shares.cpu_shares, usual)}, flag)
    rates = {"total_iops_sec": shares.disk_iops or 0, "total_bytes_sec": (shares.disk_mbps or 0) * MIB}
    for disk in parse_domain(text).disks:
        domain.setBlockIoTune(disk.target, rates, flag)


def _read(text: str, usual: int | None) -> Shares:
    domain = ElementTree.fromstring(text)  # noqa: S314 - libvirtd is trusted: it is root on that host
    weight = domain.findtext("cputune/shares")
    cpu_shares = USUAL if weight is None or usual is None else from_host(int(weight), usual)
    tunes = [disk.find("iotune") for disk in domain.iterfind("devices/disk[@device='disk']")]
    iops = {_number(tune, "total_iops_sec") for tune in tunes}
    rates = {_number(tune, "total_bytes_sec") for tune in tunes}
    return Shares(
        cpu_shares, iops.pop() or None if len(iops) == 1 else None, rates.pop() // MIB or None if len(rates) == 1 else None
    )


def _number(tune: ElementTree.Element | None, what: str) -> int:
    return 0 if tune is None else int(tune.findtext(what, "0"))
