"""
Placement: chooses among compute nodes. Pure functions. L{fluidvm.api.placement} applies them to the nodes and the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fluidvm.model.objects import ComputeNode

STRATEGIES = ("spread", "pack")


@dataclass(frozen=True)
class Wanted:
    """
    The requirements of the VM or the disk.

    @ivar vcpus: number of virtual CPUs that must be free, after overcommit.
    @ivar memory: MiB of memory that must be free, after overcommit.
    @ivar driver: the node must have this driver; C{None} for any.
    @ivar labels: the node must have all of these labels.
    @ivar pool: the storage pool.
    @ivar space: MiB that must be free in the storage pool.
    """

    vcpus: int = 0
    memory: int = 0
    driver: str | None = None
    labels: Sequence[str] = ()
    pool: str = ""
    space: int = 0


@dataclass(frozen=True)
class Load:
    """The virtual CPUs and MiB of memory in use on a node, and the free MiB of a pool (C{None}: unknown)."""

    vcpus: int
    memory: int
    space: int | None = None


def choose(
    nodes: Iterable[ComputeNode],
    wanted: Wanted,
    *,
    load: Callable[[ComputeNode], Load],
    able: Callable[[ComputeNode], bool],
    allowed: Callable[[str], bool] = lambda driver: True,
    strategy: str = "spread",
) -> tuple[ComputeNode | None, list[str]]:
    """
    Choose a compute node among those that fit.

    @param load: returns the load of a node.
    @param able: returns whether a node's driver has the necessary abilities.
    @param allowed: returns whether the owner is allowed to use a driver.
    @param strategy: C{spread}: the node with the most free memory, weighted; C{pack}: the node with the least.
    @return: the node, or C{None} if none fits; and for each node that doesn't fit, the reason.
    """
    fitting: list[tuple[float, int, ComputeNode]] = []
    reasons: list[str] = []
    for node in nodes:
        why = _unfit(node, wanted, load, able, allowed)
        if why:
            reasons.append(f"{node.name}: {why}")
            continue
        free = node.room[1] - load(node).memory
        score = -free * node.weight if strategy == "spread" else free / node.weight
        fitting.append((score, node.id, node))
    return (min(fitting)[2] if fitting else None), reasons


def _unfit(
    node: ComputeNode,
    wanted: Wanted,
    load: Callable[[ComputeNode], Load],
    able: Callable[[ComputeNode], bool],
    allowed: Callable[[str], bool],
) -> str:
    """Return the reason why a node doesn't fit; empty if it does."""
    if other := another(node, wanted):
        return other
    if not allowed(node.driver):
        return f"the resource plan doesn't allow driver {node.driver}"
    if node.mode != "active":
        return node.mode
    if node.state != "online":
        return node.state
    if not able(node):
        return f"driver {node.driver} doesn't support this"
    given = load(node)
    if lack := shortage(node, wanted, given):
        return lack
    if given.space is not None and given.space < wanted.space:
        return f"storage pool {wanted.pool}, {wanted.space - given.space} MiB short"
    return ""


def another(node: ComputeNode, wanted: Wanted) -> str:
    """Return the reason why a node doesn't have the requested driver and labels; empty if it does."""
    if wanted.driver is not None and node.driver != wanted.driver:
        return f"its driver is {node.driver}"
    return next((f"no label {label}" for label in wanted.labels if label not in node.labels), "")


def shortage(node: ComputeNode, wanted: Wanted, given: Load) -> str:
    """Return the missing memory or virtual CPUs of a node; empty if it has enough. A requirement of 0 always fits."""
    vcpus, memory = node.room
    if 0 < wanted.memory > memory - given.memory:
        return f"memory, {wanted.memory - memory + given.memory} MiB short"
    if 0 < wanted.vcpus > vcpus - given.vcpus:
        return f"virtual CPUs, {wanted.vcpus - vcpus + given.vcpus} short"
    return ""
