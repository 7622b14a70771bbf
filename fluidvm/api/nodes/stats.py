"""Resource usage of VMs and compute nodes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fluidvm.access.call import Call
from fluidvm.driver import IStats, NoSuchThing
from fluidvm.model.declare import query
from fluidvm.model.faults import NotFound
from fluidvm.model.kinds import NodeId, VmId
from fluidvm.model.objects import VM, ComputeNode
from fluidvm.model.xmlvalue import total


@query("struct")
async def get_vm_stats(call: Call, vm: VmId) -> dict[str, Any]:
    """
    Return what a running VM has used since it started, read from its compute node now.

    Keys: cpu_time (seconds of CPU, double), memory (MiB of the node's memory that it uses, int), disk_read, disk_written,
    network_received and network_sent (bytes, double). A key is absent if the VM isn't running or the node can't report it.
    """
    record = call.inventory.get(VM, vm)
    connection = await call.services.resources.nodes.connection(record.compute_node, IStats)
    try:
        told = asdict(await connection.domain_stats(record.uuid))
    except NoSuchThing:
        raise NotFound(f"VM {record.name} is gone from its compute node.") from None
    return {name: value if name == "memory" else float(value) for name, value in told.items() if value is not None}


@query("struct", roles=("admin", "auditor"))
async def get_compute_node_stats(call: Call, node: NodeId) -> dict[str, Any]:
    """
    Return the current resource usage of a compute node.

    Keys: cpu (percent of all its CPUs since the last request, double), memory_used (MiB), the size of the node (vcpus,
    memory), and what is allocated to VMs (vcpus_used, memory_used_by_vms, vms).
    """
    record = call.inventory.get(ComputeNode, node)
    connection = await call.services.resources.nodes.connection(node, IStats)
    told = await connection.host_stats()
    given = call.inventory.related(record)
    return {
        "cpu": float(told.cpu),
        "memory_used": told.memory_used,
        "vcpus": record.vcpus,
        "memory": record.memory,
        "vcpus_used": total(given["vcpus_used"]),
        "memory_used_by_vms": total(given["memory_used"]),
        "vms": given["vms"],
    }
