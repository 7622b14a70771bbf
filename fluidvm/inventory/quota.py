"""Checks against a user's resource plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluidvm.inventory.inventory import Inventory
from fluidvm.inventory.ledger import Shaped, can_get, of_user
from fluidvm.model.faults import QuotaExceeded
from fluidvm.model.objects import ResourcePlan, User

UNITS = {"memory": " MiB", "disk_space": " MiB", "vm_memory": " MiB", "vm_disk": " MiB"}
WORDS = {
    "vms": "VMs",
    "running_vms": "running VMs",
    "vcpus": "virtual CPUs",
    "memory": "memory",
    "disks": "disks",
    "disk_space": "disk space",
    "snapshots": "snapshots",
    "vm_vcpus": "virtual CPUs of one VM",
    "vm_memory": "memory of one VM",
    "vm_disk": "disk space of one VM",
}


def plan_of(inventory: Inventory, owner: int) -> ResourcePlan | None:
    """Return a user's resource plan; C{None} if it has none. @raise NotFound: the user doesn't exist."""
    plan = inventory.get(User, owner).resource_plan
    return None if plan is None else inventory.find(ResourcePlan, plan)


def limits_of(inventory: Inventory, owner: int) -> Mapping[str, Any]:
    """Return the limits of a user; empty if it has no resource plan. @raise NotFound: the user doesn't exist."""
    plan = plan_of(inventory, owner)
    return {} if plan is None else plan.limits


def check_total(inventory: Inventory, owner: int, asked: Mapping[str, int]) -> None:
    """
    Check that a user is allowed to use more.

    @param asked: the additional amount for each limit.
    @raise QuotaExceeded: a limit of the user's resource plan would be exceeded.
    """
    plan = plan_of(inventory, owner)
    if plan is None:
        return
    for limit, amount in asked.items():
        most = plan.limits.get(limit)
        taken = inventory.ledger.taken(of_user(owner), limit)
        if most is not None and amount > 0 and taken + amount > most:
            _exceeded(plan, limit, most, f"{taken}{UNITS.get(limit, '')} used", f"{amount}{UNITS.get(limit, '')} more")


def one_vm(vm: Shaped) -> dict[str, int]:
    """Return the amounts for L{check_vm} that come from a VM's virtual CPUs and memory: C{vm_vcpus}, C{vm_memory}."""
    return {f"vm_{what}": amount for what, amount in can_get(vm).items()}


def check_vm(inventory: Inventory, owner: int, shape: Mapping[str, int]) -> None:
    """
    Check that a user is allowed to have a VM of this size.

    @param shape: C{vm_vcpus}, C{vm_memory}, C{vm_disk}: the VM's total amounts.
    @raise QuotaExceeded: a limit of the user's resource plan is exceeded.
    """
    plan = plan_of(inventory, owner)
    if plan is None:
        return
    for limit, amount in shape.items():
        most = plan.limits.get(limit)
        if most is not None and amount > most:
            _exceeded(plan, limit, most, "", f"{amount}{UNITS.get(limit, '')}")


def check_driver(inventory: Inventory, owner: int, driver: str) -> None:
    """@raise QuotaExceeded: the user's resource plan doesn't allow this driver."""
    plan = plan_of(inventory, owner)
    if plan is not None and not allows(plan.limits, driver):
        _exceeded(plan, "drivers", ", ".join(plan.limits["drivers"]) or "none", "", driver)


def allows(limits: Mapping[str, Any], driver: str) -> bool:
    """Return whether limits allow a driver."""
    return "drivers" not in limits or driver in limits["drivers"]


def _exceeded(plan: ResourcePlan, limit: str, most: object, used: str, asked: str) -> None:
    what = f"{WORDS[limit]} ({limit})" if limit in WORDS else limit
    unit = UNITS.get(limit, "")
    middle = f"{used}, " if used else ""
    raise QuotaExceeded(f"Resource plan {plan.name} limits {what} to {most}{unit}: {middle}{asked} requested.")
