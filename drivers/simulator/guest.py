"""Commands in the simulator's guests, and their network settings and limits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from ipaddress import ip_interface
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import (
    AlreadyThere,
    DomainState,
    DriverError,
    GuestNetwork,
    GuestOutput,
    IGuest,
    IGuestNetwork,
    ILimits,
    ITemplates,
    Limits,
    WrongState,
)
from fluidvm.drivers.simulator.host import TEMPLATES, SimulatedHost

USERS = ("root", "nobody")


def _awake(host: SimulatedHost, uuid: str) -> None:
    domain = host.domain(uuid)
    if domain.state is not DomainState.RUNNING:
        raise WrongState(f"Domain {domain.name} is {domain.state}: commands can be run in it only while it is running.")


def run(host: SimulatedHost, uuid: str, argv: Sequence[str], stdin: bytes) -> GuestOutput:
    """A simulated guest has four commands: echo, cat, true and false."""
    _awake(host, uuid)
    outputs = {
        "echo": GuestOutput(0, " ".join(argv[1:]) + "\n", ""),
        "cat": GuestOutput(0, stdin.decode(errors="replace"), ""),
        "true": GuestOutput(0, "", ""),
        "false": GuestOutput(1, "", ""),
    }
    return outputs.get(argv[0], GuestOutput(127, "", f"{argv[0]}: not found\n"))


def set_password(host: SimulatedHost, uuid: str, user: str, password: str) -> None:
    """Set the password of a guest's user; a hash is stored."""
    _awake(host, uuid)
    if user not in USERS or not password.isprintable() or not password:
        raise DriverError(f"The guest has no user {user}, or the password isn't a single line.")
    kept = hashlib.sha256(f"{uuid} {user} {password}".encode()).hexdigest()
    host.note(uuid, passwords={**host.notes(uuid).get("passwords", {}), user: kept})


def add_key(host: SimulatedHost, uuid: str, key: str) -> None:
    """Add an SSH key."""
    _awake(host, uuid)
    keys = host.notes(uuid).get("keys", [])
    if key not in keys:
        host.note(uuid, keys=[*keys, key])


def network(host: SimulatedHost, uuid: str) -> GuestNetwork:
    """A guest's network settings."""
    host.domain(uuid)
    told: dict[str, Any] = host.notes(uuid).get("network", {})
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    return GuestNetwork(**values)


def _tell(host: SimulatedHost, uuid: str, told: GuestNetwork) -> None:
    host.note(
        uuid, network={name: list(value) if isinstance(value, tuple) else value for name, value in asdict(told).items()}
    )


def change_address(host: SimulatedHost, uuid: str, address: str, wanted: bool) -> None:
    """Add or remove a domain's address."""
    told, ip = network(host, uuid), ip_interface(address).ip
    others = {
        ip_interface(one).ip
        for domain in host.domains()
        if domain.uuid != uuid
        for one in network(host, domain.uuid).addresses
    }
    if wanted and ip in others:
        raise AlreadyThere(f"Another domain on the simulated host has address {ip}.")
    known = ip in {ip_interface(one).ip for one in told.addresses}
    if wanted and not known:
        _tell(host, uuid, replace(told, addresses=(*told.addresses, address)))
    elif known and not wanted:
        _tell(host, uuid, replace(told, addresses=tuple(one for one in told.addresses if ip_interface(one).ip != ip)))


def limits(host: SimulatedHost, uuid: str) -> Limits:
    """A domain's limits."""
    host.domain(uuid)
    return Limits(**{**asdict(Limits(0, 2048, 200000, 0)), **host.notes(uuid).get("limits", {})})


@implementer(IGuest, ITemplates, IGuestNetwork, ILimits)
class SimulatedGuest:
    """The verbs of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def run_in_guest(self, uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> Deferred[GuestOutput]:
        """Run a command."""
        return self._do("run_in_guest", lambda: run(self.simulated, uuid, argv, stdin), subject=uuid)

    def set_password(self, uuid: str, user: str, password: str) -> Deferred[None]:
        """Set a user's password."""
        return self._do("set_password", lambda: set_password(self.simulated, uuid, user, password), subject=uuid)

    def add_ssh_key(self, uuid: str, key: str) -> Deferred[None]:
        """Add an SSH key."""
        return self._do("add_ssh_key", lambda: add_key(self.simulated, uuid, key), subject=uuid)

    def list_templates(self) -> Deferred[Sequence[str]]:
        """List the templates."""
        return self._do("list_templates", lambda: TEMPLATES)

    def guest_network(self, uuid: str) -> Deferred[GuestNetwork]:
        """Return a guest's network settings."""
        return self._do("guest_network", lambda: network(self.simulated, uuid))

    def add_address(self, uuid: str, address: str) -> Deferred[None]:
        """Add an address."""
        return self._do("add_address", lambda: change_address(self.simulated, uuid, address, True), subject=uuid)

    def remove_address(self, uuid: str, address: str) -> Deferred[None]:
        """Remove an address."""
        return self._do("remove_address", lambda: change_address(self.simulated, uuid, address, False), subject=uuid)

    def set_hostname(self, uuid: str, name: str) -> Deferred[None]:
        """Set a domain's host name."""

        def put() -> None:
            _tell(self.simulated, uuid, replace(network(self.simulated, uuid), hostname=name))

        return self._do("set_hostname", put, subject=uuid)

    def set_nameservers(self, uuid: str, servers: Sequence[str], domains: Sequence[str]) -> Deferred[None]:
        """Set a domain's name servers and, if any are given, search domains."""

        def put() -> None:
            told = network(self.simulated, uuid)
            there = tuple(domains) or told.search_domains
            _tell(self.simulated, uuid, replace(told, nameservers=tuple(servers), search_domains=there))

        return self._do("set_nameservers", put, subject=uuid)

    def get_limits(self, uuid: str) -> Deferred[Limits]:
        """Return a domain's limits."""
        return self._do("get_limits", lambda: limits(self.simulated, uuid))

    def set_limits(self, uuid: str, values: Limits) -> Deferred[None]:
        """Change a domain's limits."""

        def put() -> None:
            given = {name: value for name, value in asdict(values).items() if value is not None}
            self.simulated.note(uuid, limits={**self.simulated.notes(uuid).get("limits", {}), **given})

        return self._do("set_limits", put, subject=uuid)
