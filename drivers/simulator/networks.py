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
    """Attach an interface."""
    domain = _changeable(host, uuid)
    host.check_network(interface.network)
    for other in domain.interfaces:
        if other.mac == interface.mac:
            if other.network != interface.network:
                raise AlreadyThere(f"Domain {domain.name} already has interface {other.mac} in network {other.network}.")
            return
    host.put_interfaces(uuid, (*domain.interfaces, interface))


def detach(host: SimulatedHost, uuid: str, mac: str) -> None:
    """Detach an interface; a simulated guest releases it at once."""
    domain = _changeable(host, uuid)
    host.put_interfaces(uuid, tuple(other for other in domain.interfaces if other.mac != mac))


@implementer(INetworks)
class SimulatedNetworks:
    """The verbs of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def list_networks(self) -> Deferred[Sequence[Network]]:
        """List the networks."""
        return self._do("list_networks", lambda: NETWORKS)

    def attach_interface(self, uuid: str, interface: DomainInterface) -> Deferred[None]:
        """Attach an interface."""
        return self._do("attach_interface", lambda: attach(self.simulated, uuid, interface), subject=uuid)

    def detach_interface(self, uuid: str, mac: str) -> Deferred[None]:
        """Detach an interface."""
        return self._do("detach_interface", lambda: detach(self.simulated, uuid, mac), subject=uuid)
