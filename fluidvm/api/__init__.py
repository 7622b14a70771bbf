"""
Every method of the API, declared where it is written; importing this fills METHODS of the declarations.

Imported by api.storage, api.vms, api.accounts, api.nodes, wire, tools.
"""

from fluidvm.api import (
    audit,
    drivers,
    evacuation,
    nodes,
    ownership,
    plans,
    second_factor,
    sessions,
    stats,
    storage,
    tasks,
    users,
    vms,
)

__all__ = [
    "audit",
    "drivers",
    "evacuation",
    "nodes",
    "ownership",
    "plans",
    "second_factor",
    "sessions",
    "stats",
    "storage",
    "tasks",
    "users",
    "vms",
]
