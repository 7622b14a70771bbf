"""What making a VM and making a disk share: whose it is, what it is called, where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fluidvm.access.call import Call
from fluidvm.auth.permissions import owns
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
    Check at the time of the call whose the object will be.

    @raise Forbidden: a plain user makes something for somebody else.
    """
    if not owns(call.user, spec.get("owner", call.user.id)):
        raise Forbidden("spec.owner: only an administrator may create objects for other users.")


def owner_of(job: Job, spec: dict[str, Any]) -> int:
    """Whose the object will be. @raise NotFound: that user is gone."""
    return job.inventory.get(User, spec.get("owner", job.actor)).id


def free_name(inventory: Inventory, cls: type[VM] | type[Disk] | type[Image], name: str, owner: int) -> None:
    """@raise Conflict: the owner has one of this name already."""
    if inventory.named(cls, name, owner) is not None:
        raise Conflict(f"The name {name} is already in use by another {WORDS[cls.TYPE]}.")


def may_force(user: User, spec: Mapping[str, Any], path: str) -> bool:
    """
    Whether a compute node's room isn't looked at.

    @param spec: a struct that may have C{force}; C{path} names it.
    @raise Forbidden: a plain user asks for it.
    """
    force: bool = spec.get("force", False)
    if force and user.role != "admin":
        raise Forbidden(f"{path}.force: is allowed only for administrators.")
    return force


async def place(
    job: Job, spec: dict[str, Any], owner: int, wanted: Wanted, *abilities: type[Interface], home: int | None = None
) -> ComputeNode:
    """
    Decide on which compute node a new object goes, and set its room aside there: L{Job.unreserve} gives that back.

    Where none fits it waits for those that are being connected, as all are after a start.

    On a node that is named the storage pool isn't asked for its room: it tells itself.

    @param spec: may name C{compute_node}, or C{driver} and C{labels}; with C{force} no node's room is looked at.
    @param owner: whose it will be.
    @param wanted: what it takes; driver and labels are the spec's.
    @param abilities: what the node's driver must be able to do.
    @param home: the compute node that its disks are on, which it goes to.
    @raise QuotaExceeded: the owner's plan hasn't this kind of hypervisor.
    @raise Conflict: the node that is named, or where its disks are, takes nothing new, has no room, or isn't as asked for.
    @raise Unavailable: none fits; says why.
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
        await job.connection(node.id)  # of one that is offline it isn't known what room it has
        take_room(job, node.id, force, vcpus=wanted.vcpus, memory=wanted.memory)
        return node
    limits = limits_of(job.inventory, owner)
    if "driver" in spec:
        check_driver(job.inventory, owner, spec["driver"])
    return await fit(job, wanted, abilities, lambda driver: allows(limits, driver), force)


def take_room(job: Job, id: int, force: bool, *, vcpus: int, memory: int) -> None:
    """
    Set a VM's virtual CPUs and memory aside on a compute node, as L{place} does.

    @param memory: MiB.
    @raise Conflict: it hasn't got them, and C{force} isn't asked for.
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
    Find a compute node with room, and set that aside, as L{place} does.

    @param force: one without room will do.
    @raise Unavailable: none fits; says why.
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
