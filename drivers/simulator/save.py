"""Saving, restoring and resetting the simulator's domains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import DomainState, IReset, ISave, Progress, WrongState
from fluidvm.drivers.simulator.host import SimulatedHost


@implementer(ISave, IReset)
class SimulatedSave:
    """The verbs of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def save(self, uuid: str, progress: Progress) -> Deferred[None]:
        """Save a domain's memory, and stop it."""

        def effect() -> None:
            domain = self.simulated.domain(uuid)
            if domain.state not in (DomainState.RUNNING, DomainState.PAUSED, DomainState.SAVED):
                raise WrongState(
                    f"Domain {domain.name} is {domain.state}: it can be saved only while it is running or paused."
                )
            self.simulated.put_state(uuid, DomainState.SAVED)

        return self._do("save", effect, progress, uuid)

    def restore(self, uuid: str, progress: Progress) -> Deferred[None]:
        """Resume a saved domain."""

        def effect() -> None:
            domain = self.simulated.domain(uuid)
            if domain.state not in (DomainState.SAVED, DomainState.RUNNING):
                raise WrongState(f"Domain {domain.name} is {domain.state}, and has no saved state.")
            self.simulated.put_state(uuid, DomainState.RUNNING)

        return self._do("restore", effect, progress, uuid)

    def reset(self, uuid: str) -> Deferred[None]:
        """Reset a running domain."""

        def effect() -> None:
            domain = self.simulated.domain(uuid)
            if domain.state is not DomainState.RUNNING:
                raise WrongState(f"Domain {domain.name} is {domain.state}: it can be reset only while it is running.")

        return self._do("reset", effect, subject=uuid)
