"""The simulator's networks, and interfaces in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import AlreadyThere, DomainInfo, DomainInterface, DomainState, INetworks, Network, WrongState
from fluidvm.drivers.simulator.host import NETWORKS, SimulatedHost


def _changeable(host: SimulatedHost, uuid: str) -> DomainInfo:
    domain = host.domain(uuid)
    if domain.state is DomainState.SAVED:
        raise WrongState(
            f"Domain {domain.name} is saved; its interfaces can be changed only while it is running or stopped."
        )
    return domain


def attach(host: SimulatedHost, uuid: str, interface: DomainInterface) -> None:
    """Give a domain an interface."""
    domain = _changeable(host, uuid)
    host.check_network(interface.network)
    for other in domain.interfaces:
        if other.mac == interface.mac:
            if other.network != interface.network:
                raise AlreadyThere(f"Domain {domain.name} already has interface {other.mac} in network {other.network}.")
            return
    host.put_interfaces(uuid, (*domain.interfaces, interface))


def detach(host: SimulatedHost, uuid: str, mac: str) -> None:
    """Take an interface from a domain; a simulated guest lets go at once."""
    domain = _changeable(host, uuid)
    host.put_interfaces(uuid, tuple(other for other in domain.interfaces if other.mac != mac))


@implementer(INetworks)
class SimulatedNetworks:
    """The verbs."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def list_networks(self) -> Deferred[Sequence[Network]]:
        """Tell the networks."""
        return self._do("list_networks", lambda: NETWORKS)

    def attach_interface(self, uuid: str, interface: DomainInterface) -> Deferred[None]:
        """Give a domain an interface."""
        return self._do("attach_interface", lambda: attach(self.simulated, uuid, interface), subject=uuid)

    def detach_interface(self, uuid: str, mac: str) -> Deferred[None]:
        """Take an interface from a domain."""
        return self._do("detach_interface", lambda: detach(self.simulated, uuid, mac), subject=uuid)
