"""
The methods for VMs: creation, power, hardware, migration, guests.

Imported by api.nodes.
"""

from fluidvm.api.vms import (
    adoption,
    clone,
    consoles,
    details,
    guests,
    hardware,
    migration,
    networks,
    power,
    rebuild,
    save,
    snapshots,
    vms,
)

__all__ = [
    "adoption",
    "clone",
    "consoles",
    "details",
    "guests",
    "hardware",
    "migration",
    "networks",
    "power",
    "rebuild",
    "save",
    "snapshots",
    "vms",
]
