"""What making a VM and making a disk share: whose it is, what it is called, where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from fluidvm.call import Call
from fluidvm.driver import Interface
from fluidvm.engine.entitlement import owns
from fluidvm.engine.job import Job
from fluidvm.engine.placement import Load, Wanted, choose
from fluidvm.engine.quota import allows, check_driver, limits_of
from fluidvm.faults import Conflict, Forbidden, Unavailable
from fluidvm.inventory import WORDS, Inventory
from fluidvm.objects import VM, ComputeNode, Disk, Image, User
from fluidvm.usage import of_node


def may_own(call: Call, spec: dict[str, Any]) -> None:
    """
    Check at the time of the call whose the object will be.

    @raise Forbidden: a plain user makes something for somebody else.
    """
    if not owns(call.user, spec.get("owner", call.user.id)):
        raise Forbidden("spec.owner: only an administrator makes things for others.")


def owner_of(job: Job, spec: dict[str, Any]) -> int:
    """Whose the object will be. @raise NotFound: that user is gone."""
    return job.inventory.get(User, spec.get("owner", job.actor)).id


def free_name(inventory: Inventory, cls: type[VM] | type[Disk] | type[Image], name: str, owner: int) -> None:
    """@raise Conflict: the owner has one of this name already."""
    if inventory.named(cls, name, owner) is not None:
        raise Conflict(f"There is a {WORDS[cls.TYPE]} {name} already.")


async def place(job: Job, spec: dict[str, Any], owner: int, wanted: Wanted, *abilities: type[Interface]) -> ComputeNode:
    """
    Decide on which compute node a new object goes, and set its room aside there: L{Job.unreserve} gives that back.

    Where none fits it waits for those that are being connected, as all are after a start.

    Who names a node is taken at its word: neither its room nor its labels are looked at.

    @param owner: whose it will be.
    @param wanted: what it takes; driver and labels are the spec's.
    @param abilities: what the node's driver must be able to do.
    @raise QuotaExceeded: the owner's plan hasn't this kind of hypervisor.
    @raise Conflict: the node that is named takes nothing new.
    @raise Unavailable: none fits; says why.
    """
    named = spec.get("compute_node")
    if named is not None:
        node = job.inventory.get(ComputeNode, named)
        if node.mode != "active":
            raise Conflict(f"Compute node {node.name} is in mode {node.mode}.")
        check_driver(job.inventory, owner, node.driver)
        return node
    limits = limits_of(job.inventory, owner)
    if "driver" in spec:
        check_driver(job.inventory, owner, spec["driver"])
    wanted = replace(wanted, driver=spec.get("driver"), labels=spec.get("labels", ()))
    return await fit(job, wanted, abilities, lambda driver: allows(limits, driver))


async def fit(
    job: Job, wanted: Wanted, abilities: Iterable[type[Interface]], allowed: Callable[[str], bool] = lambda driver: True
) -> ComputeNode:
    """
    Find a compute node with room, and set that aside, as L{place} does.

    @raise Unavailable: none fits; says why.
    """
    ledger = job.inventory.ledger

    def load(node: ComputeNode) -> Load:
        account = of_node(node.id)
        space = job.nodes.pool_space(node.id, wanted.pool) if wanted.pool else None
        return Load(ledger.taken(account, "vcpus"), ledger.taken(account, "memory"), space)

    while True:
        chosen, reasons = choose(
            job.inventory.all(ComputeNode), wanted, load=load,
            able=lambda node: all(job.nodes.provides(node.id, ability) for ability in abilities),
            strategy=job.placement, allowed=allowed,
        )  # fmt: skip
        if chosen is not None or not await job.nodes.settled():
            break
    if chosen is None:
        raise Unavailable(f"No compute node fits ({'; '.join(reasons) or 'there is none'}).")
    job.reserve_on(chosen.id, vcpus=wanted.vcpus, memory=wanted.memory)
    return chosen
