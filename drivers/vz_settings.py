"""What else a container is given, at once if it runs: addresses, names, room, weight; and which templates there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_interface

from fluidvm.driver import DriverError

from .vz_dialect import parse_conf, parse_templates
from .vz_node import VzNode, changed, verb


def address(text: str) -> str:
    """@raise DriverError: this is no address, with or without a mask."""
    try:
        ip_interface(text)
    except ValueError:
        raise DriverError(f"{text!r} is no IP address.") from None
    return text


def host_name(text: str) -> str:
    """@raise DriverError: this is no host's or domain's name. vzctl takes anything, and scripts read it later."""
    if len(text) > 253 or not re.fullmatch(
        r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", text
    ):
        raise DriverError(f"{text!r} is no host's name.")
    return text


class VzSettings(VzNode):
    """By C{vzctl set}. Each verb repeated changes nothing; after failure it is as before; no such domain: NoSuchThing."""

    async def _conf(self, ctid: str) -> dict[str, str]:
        return parse_conf((await self._run(["cat", f"{self._conf_dir}/{ctid}.conf"])).stdout)

    async def _give(self, uuid: str, what: str, *words: str) -> None:
        async def give() -> None:
            there = await self._container(uuid)
            await self._set(f"{what} of container {there.info.name}", there.ctid, words, [])

        await self._alone(uuid, give)

    @verb
    async def list_addresses(self, uuid: str) -> Sequence[str]:
        """Tell the addresses of a container's definition, in the order in which they were given."""
        return (await self._conf((await self._container(uuid)).ctid)).get("IP_ADDRESS", "").split()

    @verb
    async def add_address(self, uuid: str, ip: str) -> None:
        """Give a container an address. @raise AlreadyThere: somebody else on the network has it."""
        await self._give(uuid, "address", "--ipadd", address(ip))
        await self._check_addresses(uuid, ip, True)

    @verb
    async def remove_address(self, uuid: str, ip: str) -> None:
        """Take an address from a container."""
        await self._give(uuid, "address", "--ipdel", str(ip_interface(address(ip)).ip))
        await self._check_addresses(uuid, ip, False)

    async def _check_addresses(self, uuid: str, ip: str, wanted: bool) -> None:
        conf = await self._conf((await self._container(uuid)).ctid)
        there = {ip_interface(one).ip for one in conf.get("IP_ADDRESS", "").split()}
        changed(f"address {ip}", wanted, ip_interface(ip).ip in there)

    @verb
    async def set_hostname(self, uuid: str, name: str) -> None:
        """Give a container a host's name."""
        await self._give(uuid, "host's name", "--hostname", host_name(name))

    @verb
    async def set_nameservers(self, uuid: str, servers: Sequence[str], domains: Sequence[str]) -> None:
        """Give a container these name servers and search domains, instead of those it had. One of each at least."""
        words = [word for server in servers for word in ("--nameserver", str(ip_interface(address(server)).ip))]
        words += [word for domain in domains for word in ("--searchdomain", host_name(domain))]
        if words:
            await self._give(uuid, "name servers", *words)

    @verb
    async def set_disk_space(self, uuid: str, size: int) -> None:
        """Give a container's file system another size, in MiB."""
        await self._give(uuid, "disk space", "--diskspace", f"{size}M")
        changed("disk space", size, (await self._container(uuid)).listed.disk)

    @verb
    async def set_inodes(self, uuid: str, inodes: int) -> None:
        """Bound how many files a container may have; where its file system is an image, this does nothing."""
        await self._give(uuid, "inodes", "--diskinodes", str(inodes))

    @verb
    async def set_swap(self, uuid: str, swap: int) -> None:
        """Give a container another amount of swap space, in MiB."""
        await self._give(uuid, "swap", "--swap", f"{swap}M")
        changed("swap", swap, (await self._container(uuid)).listed.swap)

    @verb
    async def set_cpu_weight(self, uuid: str, units: int, limit: int) -> None:
        """
        Give a container a weight against others, and a limit.

        @param units: 8 to 500000; 1000 is usual.
        @param limit: per cent of one CPU; 0: none.
        """
        await self._give(uuid, "CPU weight", "--cpuunits", str(units), "--cpulimit", str(limit))
        listed = (await self._container(uuid)).listed
        changed("CPU weight", (units, limit), (listed.cpuunits, listed.cpulimit))

    @verb
    async def list_templates(self) -> Sequence[str]:
        """Tell the OS templates that containers can be made of."""
        outcome = await self._run(["cat", f"{self._conf_dir.rpartition('/')[0]}/vz.conf"])
        place = parse_conf(outcome.stdout).get("TEMPLATE", "/vz/template")
        listing = await self._run(["ls", f"{place}/cache"])
        return parse_templates(listing.stdout)
