"""Adoption: the definitions of the simulator's domains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import Boot, DomainSpec, IAdoption, NoSuchThing, Unsupported, Volume
from fluidvm.drivers.simulator.host import SimulatedHost


def spec_of(host: SimulatedHost, uuid: str) -> DomainSpec:
    """A domain's definition."""
    domain = host.domain(uuid)
    boot = host.boot(uuid)
    return DomainSpec(
        uuid=domain.uuid,
        name=domain.name,
        vcpus=domain.vcpus,
        max_vcpus=domain.max_vcpus,
        memory=domain.memory,
        max_memory=domain.max_memory,
        disks=domain.disks,
        autostart=domain.autostart,
        interfaces=domain.interfaces,
        boot=Boot(**{**boot, "order": tuple(boot["order"])}) if boot else Boot(),
    )


def volume_of(host: SimulatedHost, path: str, format: str) -> Volume:
    """Find the volume at a path. @raise Unsupported: it has another format."""
    for volume in host.all_volumes():
        if volume.path == path:
            if volume.format != format:
                raise Unsupported(f"{path} has format {volume.format}, not {format}.")
            return volume
    raise NoSuchThing(f"There is no volume {path} on the simulated host.")


@implementer(IAdoption)
class SimulatedAdoption:
    """The verbs of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def get_spec(self, uuid: str) -> Deferred[DomainSpec]:
        """Return a domain's definition."""
        return self._do("get_spec", lambda: spec_of(self.simulated, uuid))

    def volume_of(self, path: str, format: str) -> Deferred[Volume]:
        """Find the volume at a path."""
        return self._do("volume_of", lambda: volume_of(self.simulated, path, format))
