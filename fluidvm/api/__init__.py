"""Every method of the API, declared where it is written; importing this fills `fluidvm.declare.METHODS`."""

from fluidvm.api import disks, nodes, sessions, tasks, users, vm_hardware, vm_power, vms

__all__ = ["disks", "nodes", "sessions", "tasks", "users", "vm_hardware", "vm_power", "vms"]
