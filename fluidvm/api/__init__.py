"""
Every method of the API, declared where it is implemented; importing this package fills METHODS in model.declare.

Imported by api.storage, api.vms, api.accounts, api.nodes, wire, tools.
"""

from fluidvm.api import accounts, nodes, storage, tasks, vms

__all__ = ["accounts", "nodes", "storage", "tasks", "vms"]
