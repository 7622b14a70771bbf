"""Every method of the API, declared where it is written; importing this fills `fluidvm.declare.METHODS`."""

from fluidvm.api import (
    audit,
    disks,
    drivers,
    nodes,
    ownership,
    plans,
    second_factor,
    sessions,
    stats,
    tasks,
    users,
    vm_details,
    vm_hardware,
    vm_power,
    vms,
    volumes,
)

__all__ = [
    "audit",
    "disks",
    "drivers",
    "nodes",
    "ownership",
    "plans",
    "second_factor",
    "sessions",
    "stats",
    "tasks",
    "users",
    "vm_details",
    "vm_hardware",
    "vm_power",
    "vms",
    "volumes",
]
