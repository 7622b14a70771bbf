"""What the simulator's domains are held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import IShares, Shares
from fluidvm.drivers.simulator.host import SimulatedHost


@implementer(IShares)
class SimulatedShares:
    """The verbs. Weight and rates are kept, disk by disk and interface by interface; nothing is slowed down."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def shareable(self) -> Deferred[Sequence[str]]:
        """Tell what domains can be held to: all there is."""
        return self._do("shareable", lambda: tuple(asdict(Shares())))

    def set_shares(self, uuid: str, shares: Shares) -> Deferred[None]:
        """Hold a domain to shares and rates."""
        return self._do("set_shares", lambda: self.simulated.put_shares(uuid, shares), subject=uuid)

    def get_shares(self, uuid: str) -> Deferred[Shares]:
        """Tell what a domain is held to."""
        return self._do("get_shares", lambda: self.simulated.shares(uuid))
