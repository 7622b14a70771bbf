"""
Every method of the API, declared where it is written; importing this fills METHODS of the declarations.

Imported by api.storage, api.vms, api.accounts, api.nodes, wire, tools.
"""

from fluidvm.api import accounts, nodes, storage, tasks, vms

__all__ = ["accounts", "nodes", "storage", "tasks", "vms"]
