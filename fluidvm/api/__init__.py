"""
Every method of the API, declared where it is written; importing this fills METHODS of the declarations.

Imported by api.storage, api.vms, api.accounts, api.nodes, wire, tools.
"""

from fluidvm.api import accounts, drivers, evacuation, nodes, stats, storage, tasks, vms

__all__ = ["accounts", "drivers", "evacuation", "nodes", "stats", "storage", "tasks", "vms"]
