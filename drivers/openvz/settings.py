"""Settings of containers: addresses, host name, name servers and limits; and the list of templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_interface

from zope.interface import implementer

from fluidvm.driver import DriverError, GuestNetwork, IGuestNetwork, ILimits, ITemplates, Limits
from fluidvm.drivers.openvz.dialect import parse_conf, parse_templates
from fluidvm.drivers.openvz.kernel import VzKernel
from fluidvm.drivers.openvz.node import changed, verb


def address(text: str) -> str:
    """Check an address. @raise DriverError: it isn't one, with or without a mask."""
    try:
        ip_interface(text)
    except ValueError:
        raise DriverError(f"{text!r} is not a valid IP address.") from None
    return text


def host_name(text: str) -> str:
    """Check a host or domain name: vzctl accepts anything, and scripts read it later. @raise DriverError: it isn't valid."""
    if len(text) > 253 or not re.fullmatch(
        r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", text
    ):
        raise DriverError(f"{text!r} is not a valid host name.")
    return text


@implementer(IGuestNetwork, ILimits, ITemplates)
class VzSettings(VzKernel):
    """Uses C{vzctl set}."""

    async def _conf(self, ctid: str) -> dict[str, str]:
        return parse_conf((await self._run(["cat", f"{self._conf_dir}/{ctid}.conf"])).stdout)

    async def _give(self, uuid: str, what: str, *words: str) -> str:
        """@return: the container's id."""

        async def give() -> str:
            there = await self._container(uuid)
            await self._set(f"{what} of container {there.info.name}", there.ctid, words, [])
            return there.ctid

        return await self._alone(uuid, give)

    @verb
    async def guest_network(self, uuid: str) -> GuestNetwork:
        conf = await self._conf((await self._container(uuid)).ctid)
        return GuestNetwork(
            tuple(conf.get("IP_ADDRESS", "").split()),
            conf.get("HOSTNAME", ""),
            tuple(conf.get("NAMESERVER", "").split()),
            tuple(conf.get("SEARCHDOMAIN", "").split()),
        )

    @verb
    async def add_address(self, uuid: str, ip: str) -> None:
        ctid = await self._give(uuid, "address", "--ipadd", address(ip))
        await self._check_addresses(ctid, ip, True)

    @verb
    async def remove_address(self, uuid: str, ip: str) -> None:
        ctid = await self._give(uuid, "address", "--ipdel", str(ip_interface(address(ip)).ip))
        await self._check_addresses(ctid, ip, False)

    async def _check_addresses(self, ctid: str, ip: str, wanted: bool) -> None:
        there = {ip_interface(one).ip for one in (await self._conf(ctid)).get("IP_ADDRESS", "").split()}
        changed(f"address {ip}", wanted, ip_interface(ip).ip in there)

    @verb
    async def set_hostname(self, uuid: str, name: str) -> None:
        await self._give(uuid, "host's name", "--hostname", host_name(name))

    @verb
    async def set_nameservers(self, uuid: str, servers: Sequence[str], domains: Sequence[str]) -> None:
        words = [word for server in servers for word in ("--nameserver", str(ip_interface(address(server)).ip))]
        words += [word for domain in domains for word in ("--searchdomain", host_name(domain))]
        if not servers:
            raise DriverError(f"Container {uuid}: at least one name server is required.")
        await self._give(uuid, "name servers", *words)

    @verb
    async def get_limits(self, uuid: str) -> Limits:
        listed = (await self._container(uuid)).listed
        return Limits(listed.swap, listed.disk or None, listed.inodes or None, listed.cpulimit)

    @verb
    async def set_limits(self, uuid: str, limits: Limits) -> None:
        """See L{ILimits}. If the file system is an image, vzctl accepts another number of inodes but keeps the old one."""

        async def give() -> None:
            there = await self._container(uuid)
            before = Limits(there.listed.swap, there.listed.disk or None, there.listed.inodes or None, there.listed.cpulimit)
            subject = f"limits of container {there.info.name}"
            await self._set(subject, there.ctid, self._words(limits), self._words(before, limits))
            told = await self.get_limits(uuid)
            for name in ("swap", "disk_space", "cpu_limit"):
                wanted = getattr(limits, name)
                if wanted is not None:
                    changed(f"{name} of container {there.info.name}", wanted, getattr(told, name))

        if self._words(limits):
            await self._alone(uuid, give)

    def _words(self, values: Limits, asked: Limits | None = None) -> list[str]:
        """The arguments of C{vzctl set}. @param asked: only fields that are set here are included."""
        words = []
        for name, told in (
            ("swap", self._swap_words),
            ("disk_space", lambda value: ["--diskspace", f"{value}M"]),
            ("inodes", lambda value: ["--diskinodes", str(value)]),
            ("cpu_limit", lambda value: ["--cpulimit", str(value)]),
        ):
            value = getattr(values, name)
            if value is not None and (asked is None or getattr(asked, name) is not None):
                words += told(value)
        return words

    @verb
    async def list_templates(self) -> Sequence[str]:
        outcome = await self._run(["cat", f"{self._conf_dir.rpartition('/')[0]}/vz.conf"])
        place = parse_conf(outcome.stdout).get("TEMPLATE", "/vz/template")
        listing = await self._run(["ls", f"{place}/cache"])
        return parse_templates(listing.stdout)
