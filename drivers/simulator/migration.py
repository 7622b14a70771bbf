"""Moving the simulator's domains to another simulated host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import AlreadyThere, DomainInfo, DomainSpec, DomainState, IMigration, NoSuchThing, Progress, WrongState
from fluidvm.drivers.simulator.adoption import volume_of
from fluidvm.drivers.simulator.host import OFF, SimulatedHost


def _find(host: SimulatedHost, uuid: str) -> DomainInfo | None:
    return next((domain for domain in host.domains() if domain.uuid == uuid), None)


def move(here: SimulatedHost, there: SimulatedHost, spec: DomainSpec, live: bool, copy_storage: bool) -> None:
    """Move a domain; it is stored on the other host before it is removed here."""
    domain = _find(here, spec.uuid)
    moved = _find(there, spec.uuid) is not None
    if domain is None:
        if moved:
            return
        raise NoSuchThing(f"There is no domain {spec.uuid} on the simulated host.")
    if not moved:
        running = domain.state is DomainState.RUNNING
        if not running and domain.state not in OFF:
            raise WrongState(f"Domain {domain.name} is {domain.state}: it can be moved only while it is running or stopped.")
        if running and not live:
            raise WrongState(f"Domain {domain.name} is running: stop it, or move it live.")
        if copy_storage:
            _check_copies(here, there, domain, spec)
        there.define(spec)
        there.put_state(spec.uuid, domain.state)
    here.remove(spec.uuid)


def _check_copies(here: SimulatedHost, there: SimulatedHost, domain: DomainInfo, spec: DomainSpec) -> None:
    new = {disk.target: disk for disk in spec.disks}
    for disk in domain.disks:
        if disk.target not in new:
            raise NoSuchThing(f"Disk {disk.target} of domain {domain.name} has no volume to be copied to.")
        copy = new[disk.target]
        source, target = volume_of(here, disk.path, disk.format), volume_of(there, copy.path, copy.format)
        if (source.size, source.format) != (target.size, target.format):
            raise AlreadyThere(f"Volume {target.name} differs from {source.name} in size or format.")


@implementer(IMigration)
class SimulatedMigration:
    """The verbs of this ability."""

    migrates_live = True
    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def migrate(self, spec: DomainSpec, to: Any, live: bool, copy_storage: bool, progress: Progress) -> Deferred[None]:
        """Move a domain to another simulated host."""

        def effect() -> None:
            to._check()
            move(self.simulated, to.simulated, spec, live, copy_storage)

        return self._do("migrate", effect, progress, spec.uuid)
