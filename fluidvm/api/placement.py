"""
What creating a VM and creating a disk have in common: owner, name, placement. How a node is chosen among several is in
L{fluidvm.engine.placement}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fluidvm.access.call import Call
from fluidvm.auth.permissions import administers, owns
from fluidvm.driver import Interface
from fluidvm.engine.job import Job
from fluidvm.engine.placement import Load, Wanted, another, choose, shortage
from fluidvm.inventory.inventory import WORDS, Inventory
from fluidvm.inventory.ledger import of_node
from fluidvm.inventory.quota import allows, check_driver, limits_of
from fluidvm.model.faults import Conflict, Forbidden, Unavailable
from fluidvm.model.objects import VM, ComputeNode, Disk, Image, User


def may_own(call: Call, spec: dict[str, Any]) -> None:
    """
    Check the owner of a new object at the time of the call.

    @raise Forbidden: a plain user creates an object for another user.
    """
    if not owns(call.user, spec.get("owner", call.user.id)):
        raise Forbidden("spec.owner: only an administrator may create objects for other users.")


def owner_of(job: Job, spec: dict[str, Any]) -> int:
    """Return the owner of a new object. @raise NotFound: that user no longer exists."""
    return job.inventory.get(User, spec.get("owner", job.actor)).id


def free_name(inventory: Inventory, cls: type[VM] | type[Disk] | type[Image], name: str, owner: int) -> None:
    """@raise Conflict: the owner already has an object of this type and name."""
    if inventory.named(cls, name, owner) is not None:
        raise Conflict(f"The name {name} is already in use by another {WORDS[cls.TYPE]}.")


def may_force(user: User, spec: Mapping[str, Any], path: str) -> bool:
    """
    Tell whether to skip the check that a compute node has room.

    @param spec: a struct that may have C{force}; C{path} names it.
    @raise Forbidden: a plain user has set C{force}.
    """
    force: bool = spec.get("force", False)
    if force and not administers(user):
        raise Forbidden(f"{path}.force: is allowed only for administrators.")
    return force


async def place(
    job: Job, spec: dict[str, Any], owner: int, wanted: Wanted, *abilities: type[Interface], home: int | None = None
) -> ComputeNode:
    """
    Choose the compute node for a new object, and reserve its room there; L{Job.unreserve} releases it.

    If no node fits, waits for the nodes that are being connected, as all nodes are after a start of the server.

    The space of the storage pool isn't checked on a named node: creating the volume fails there if it is too small.

    @param spec: may name C{compute_node}, or C{driver} and C{labels}; with C{force}, room isn't checked.
    @param owner: the owner of the new object.
    @param wanted: what the object needs; driver and labels are taken from C{spec}.
    @param abilities: the abilities that the node's driver must have.
    @param home: the compute node of its existing disks, on which it must be placed.
    @raise QuotaExceeded: the owner's plan doesn't allow this driver.
    @raise Conflict: the named node, or C{home}, isn't active, doesn't have enough room, or doesn't match the request.
    @raise Unavailable: no node fits; says why.
    """
    force = may_force(job.user(), spec, "spec")
    wanted = replace(wanted, driver=spec.get("driver"), labels=spec.get("labels", ()))
    named = spec.get("compute_node", home)
    if named is not None:
        node = job.inventory.get(ComputeNode, named)
        if other := another(node, wanted):
            raise Conflict(f"The disks are on compute node {node.name}, which doesn't match the request: {other}.")
        if node.mode != "active":
            raise Conflict(f"Compute node {node.name} is in mode {node.mode}.")
        check_driver(job.inventory, owner, node.driver)
        await job.connection(node.id)  # fails if it is offline: then its room isn't known
        take_room(job, node.id, force, vcpus=wanted.vcpus, memory=wanted.memory)
        return node
    limits = limits_of(job.inventory, owner)
    if "driver" in spec:
        check_driver(job.inventory, owner, spec["driver"])
    return await fit(job, wanted, abilities, lambda driver: allows(limits, driver), force)


def take_room(job: Job, id: int, force: bool, *, vcpus: int, memory: int) -> None:
    """
    Reserve a VM's virtual CPUs and memory on a compute node, as L{place} does.

    @param memory: MiB.
    @raise Conflict: the node doesn't have enough of them, and C{force} isn't set.
    """
    node = job.inventory.get(ComputeNode, id)
    wanted = Wanted(vcpus, memory)
    lack = "" if force else shortage(node, wanted, _load(job, node, wanted))
    if lack:
        raise Conflict(f"Compute node {node.name} doesn't have enough room: {lack}.")
    job.reserve_on(id, vcpus=vcpus, memory=memory)


def _load(job: Job, node: ComputeNode, wanted: Wanted) -> Load:
    ledger, account = job.inventory.ledger, of_node(node.id)
    space = job.nodes.pool_space(node.id, wanted.pool) if wanted.pool else None
    return Load(ledger.taken(account, "vcpus"), ledger.taken(account, "memory"), space)


async def fit(
    job: Job,
    wanted: Wanted,
    abilities: Iterable[type[Interface]],
    allowed: Callable[[str], bool] = lambda driver: True,
    force: bool = False,
) -> ComputeNode:
    """
    Find a compute node with room, and reserve it, as L{place} does.

    @param force: accept a node without enough room.
    @raise Unavailable: no node fits; says why.
    """
    looked_for = replace(wanted, vcpus=0, memory=0, space=0) if force else wanted
    while True:
        chosen, reasons = choose(
            job.inventory.all(ComputeNode),
            looked_for,
            load=lambda node: _load(job, node, wanted),
            able=lambda node: all(job.nodes.provides(node.id, ability) for ability in abilities),
            strategy=job.placement,
            allowed=allowed,
        )
        if chosen is not None or not await job.nodes.settled():
            break
    if chosen is None:
        raise Unavailable(f"No compute node fits ({'; '.join(reasons) or 'there are no compute nodes'}).")
    job.reserve_on(chosen.id, vcpus=wanted.vcpus, memory=wanted.memory)
    return chosen
