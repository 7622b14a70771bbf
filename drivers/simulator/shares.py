"""CPU shares and rate limits of the simulator's domains."""

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
    """The verbs of this ability. Shares and rates are stored, for each disk and interface; nothing is slowed down."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def shareable(self) -> Deferred[Sequence[str]]:
        """List the supported fields: all of them."""
        return self._do("shareable", lambda: tuple(asdict(Shares())))

    def set_shares(self, uuid: str, shares: Shares) -> Deferred[None]:
        """Set a domain's shares and rates."""
        return self._do("set_shares", lambda: self.simulated.put_shares(uuid, shares), subject=uuid)

    def get_shares(self, uuid: str) -> Deferred[Shares]:
        """Return a domain's shares and rates."""
        return self._do("get_shares", lambda: self.simulated.shares(uuid))
