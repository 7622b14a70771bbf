"""Creating, changing, reading and deleting resource plans."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.listing import list_objects, show
from fluidvm.engine.job import Job
from fluidvm.inventory.inventory import Inventory
from fluidvm.inventory.ledger import LIMITS, of_user
from fluidvm.model.declare import query, task
from fluidvm.model.faults import Conflict
from fluidvm.model.kinds import NAME_PATTERN, NAME_RULE, Array, Int, PlanId, Struct, Text, filter_of, named
from fluidvm.model.object_fields import wire_fields
from fluidvm.model.objects import ResourcePlan
from fluidvm.model.xmlvalue import Members, Rendered, total
from fluidvm.store.objects import Create, Delete, Update

# A new limit is also counted in fluidvm/inventory/ledger.py (LIMITS, amounts), and has its words and units in
# fluidvm/inventory/quota.py.
Limits = Annotated[
    dict[str, Any],
    Struct(
        "the limits and defaults; an absent limit means no limit",
        fields={
            "vms": Int("total number of VMs", low=0),
            "running_vms": Int("number of VMs that run at the same time", low=0),
            "vcpus": Int("virtual CPUs of all VMs (the sum of max_vcpus)", low=0),
            "memory": Int("memory of all VMs (the sum of max_memory)", unit="MiB", low=0),
            "disks": Int("total number of disks", low=0),
            "disk_space": Int("total size of all disks, images and uploads", unit="MiB", low=0),
            "snapshots": Int("total number of snapshots", low=0),
            "vm_vcpus": Int("virtual CPUs of one VM (max_vcpus)", low=0),
            "vm_memory": Int("memory of one VM (max_memory)", unit="MiB", low=0),
            "vm_disk": Int("total size of the disks of one VM", unit="MiB", low=0),
            "default_vcpus": Int("virtual CPUs of a VM if create_vm names none", low=1, high=1024),
            "default_memory": Int("memory of a VM if create_vm names none", unit="MiB", low=16, high=16 * 1024 * 1024),
            "default_disk": Int("size of the single disk that a VM gets if create_vm names no disks", unit="MiB", low=1),
            "cpu_shares": Int("CPU weight of each VM relative to others on its host", low=2, high=262144),
            "disk_iops": Int("I/O operations per second of each disk", low=1),
            "disk_mbps": Int("throughput of each disk", unit="MiB/s", low=1),
            "network_mbps": Int("throughput of each network interface", unit="Mbit/s", low=1),
            "drivers": Array(
                "the drivers whose compute nodes may be used",
                of=Text("a driver's name", longest=63, pattern=NAME_PATTERN, rule=NAME_RULE),
                unique=True,
            ),
        },
    ),
]
PlanName = Annotated[str, named("the resource plan's name")]
PlanFilter = Annotated[dict[str, Any], filter_of(wire_fields(ResourcePlan))]


def _check_name(inventory: Inventory, name: str, but: int = 0) -> None:
    existing = inventory.named(ResourcePlan, name)
    if existing is not None and existing.id != but:
        raise Conflict(f"A resource plan named {name} already exists.")


@task("resource_plan", creates=True, roles=("admin",), precheck=lambda call, name, limits: _check_name(call.inventory, name))
async def create_resource_plan(job: Job, name: PlanName, limits: Limits) -> None:
    """Create a resource plan."""
    _check_name(job.inventory, name)
    job.put(Create(ResourcePlan(id=job.target, name=name, limits=limits, created=job.wall_clock())))


@task("resource_plan", roles=("admin",))
async def set_resource_plan(job: Job, plan: PlanId, limits: Limits) -> None:
    """
    Replace all limits of a resource plan.

    The new limits apply when objects are created or grow. Existing objects stay as they are, and running VMs keep running.
    """
    job.inventory.get(ResourcePlan, plan)
    job.put(Update("resource_plan", plan, {"limits": limits}))


@task("resource_plan", roles=("admin",), precheck=lambda call, plan, name: _check_name(call.inventory, name, plan))
async def rename_resource_plan(job: Job, plan: PlanId, name: PlanName) -> None:
    """Rename a resource plan."""
    job.inventory.get(ResourcePlan, plan)
    _check_name(job.inventory, name, plan)
    job.put(Update("resource_plan", plan, {"name": name}))


@task("resource_plan", roles=("admin",))
async def delete_resource_plan(job: Job, plan: PlanId) -> None:
    """Delete a resource plan that is assigned to no user."""
    record = job.inventory.get(ResourcePlan, plan)
    users = job.inventory.users_of(plan)
    if users:
        raise Conflict(
            f"Resource plan {record.name} is in use by user {users[0].name} (users in total: {len(users)}): give them "
            "another plan first."
        )
    job.put(Delete("resource_plan", plan))


@query("struct")
def get_resource_plan(call: Call, plan: PlanId) -> Rendered:
    """Return a resource plan."""
    return show(call, "resource_plan", plan)


@query("array")
def list_resource_plans(call: Call, filter: PlanFilter = {}) -> Members:  # noqa: B006
    """List the resource plans."""
    return list_objects(call, "resource_plan", filter)


@query("struct", roles=("admin", "auditor"))
def get_resource_plan_usage(call: Call, plan: PlanId) -> dict[str, Any]:
    """
    Return what all users of a resource plan use together.

    The keys are the limits on totals; each value is a struct of used and, if the plan has this limit, limit (per user).
    """
    record = call.inventory.get(ResourcePlan, plan)
    users = [user.id for user in call.inventory.users_of(plan)]
    return {
        limit: usage(sum(call.inventory.ledger.used(of_user(user), limit) for user in users), record.limits.get(limit))
        for limit in LIMITS
    }


def usage(used: int, limit: int | None) -> dict[str, Any]:
    """One limit and how much of it is used; C{limit} is absent if there is none."""
    return {"used": total(used)} | ({} if limit is None else {"limit": limit})
