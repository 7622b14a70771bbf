"""The installed drivers and their abilities."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.listing import page
from fluidvm.auth.permissions import reads_all
from fluidvm.driver import ABILITIES, Interface
from fluidvm.driver.loader import DriverDescription, DriverLoader
from fluidvm.model.declare import METHODS, query
from fluidvm.model.faults import NotFound
from fluidvm.model.kinds import NAME_PATTERN, NAME_RULE, Text, filter_of
from fluidvm.model.xmlvalue import Members

FIELDS = {"name": str, "distribution": str, "version": str, "summary": str, "abilities": list, "error": str}
DriverFilter = Annotated[dict[str, Any], filter_of(FIELDS, "name")]
DriverName = Annotated[str, Text("a driver's name", longest=63, pattern=NAME_PATTERN, rule=NAME_RULE)]


def _wire(found: DriverDescription) -> dict[str, Any]:
    wire = {
        "name": found.name,
        "distribution": found.distribution,
        "version": found.version,
        "summary": found.summary,
        "abilities": [ability.removeprefix("I") for ability in found.abilities],
        "error": found.error,
    }
    return {key: value for key, value in wire.items() if value or key == "abilities"}


def _seen(call: Call, wire: dict[str, Any]) -> dict[str, Any]:
    """The reason why a driver can't be loaded may reveal files of the server: plain users don't get it."""
    if "error" in wire and not reads_all(call.user):
        wire["error"] = f"Driver {wire['name']} can't be loaded."
    return wire


@query("array")
async def list_drivers(call: Call, filter: DriverFilter = {}) -> Members:  # noqa: B006
    """List the installed drivers by name, with their abilities, or with the error that prevents one from being loaded."""
    return page("driver", (_seen(call, _wire(one)) for one in call.services.resources.drivers.describe()), filter)


@query("struct")
async def get_driver(call: Call, name: DriverName) -> dict[str, Any]:
    """
    Return what list_drivers returns for a driver, plus options (of add_compute_node for this driver) and methods.

    The keys of methods are the tasks on VMs and disks that work on the driver's compute nodes. Each value is a text that
    says which variants of the task are supported, or an empty string if there is nothing to add.
    """
    drivers = call.services.resources.drivers
    if name not in drivers.names():
        raise NotFound(f"There is no driver {name}: list_drivers shows the installed drivers.")
    wire = _seen(call, _wire(drivers.description(name)))
    if "error" not in wire:
        fields = drivers.get(name).options.fields or {}
        wire["options"] = {key: kind.describe() for key, kind in fields.items()}
        provided = _abilities(drivers, name)
        wire["methods"] = {
            method.name: "; ".join(words for ability, words in method.optional_abilities if ability in provided)
            for method in sorted(METHODS.values(), key=lambda method: method.name)
            if method.task and method.target in ("vm", "disk") and provided.issuperset(method.needs)
        }
    return wire


def _abilities(drivers: DriverLoader, name: str) -> set[type[Interface]]:
    connection = drivers.get(name).connection
    return {ability for ability in ABILITIES if ability.implementedBy(connection)}  # type: ignore[attr-defined]
