"""Where a VM or a disk goes when no compute node is named: a pure function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fluidvm.model.objects import ComputeNode

STRATEGIES = ("spread", "pack")


@dataclass(frozen=True)
class Wanted:
    """
    What is to be placed.

    @ivar vcpus: and C{memory} (MiB): what must be free, overcommit counted.
    @ivar driver: only nodes of this driver; C{None}: of any.
    @ivar labels: only nodes with all of these.
    @ivar space: MiB that the storage pool C{pool} must have free.
    """

    vcpus: int = 0
    memory: int = 0
    driver: str | None = None
    labels: Sequence[str] = ()
    pool: str = ""
    space: int = 0


@dataclass(frozen=True)
class Load:
    """What a node has given away: virtual CPUs, MiB of memory, and how many MiB a pool has free (C{None}: unknown)."""

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

    @param load: tells what a node has given away.
    @param able: tells whether a node's driver can do what is asked.
    @param allowed: tells whether the owner may use a driver.
    @param strategy: C{spread}: the one with the most memory free, for its weight; C{pack}: the one with the least.
    @return: the node, or C{None}; and why each of the others didn't fit.
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
    """Why a node doesn't fit; empty: it does."""
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
    """Why a node isn't one of those that are asked for; empty: it is."""
    if wanted.driver is not None and node.driver != wanted.driver:
        return f"its driver is {node.driver}"
    return next((f"no label {label}" for label in wanted.labels if label not in node.labels), "")


def shortage(node: ComputeNode, wanted: Wanted, given: Load) -> str:
    """What a node hasn't left of memory and virtual CPUs; empty: it has what is wanted. Who wants nothing fits anywhere."""
    vcpus, memory = node.room
    if 0 < wanted.memory > memory - given.memory:
        return f"memory, {wanted.memory - memory + given.memory} MiB short"
    if 0 < wanted.vcpus > vcpus - given.vcpus:
        return f"virtual CPUs, {wanted.vcpus - vcpus + given.vcpus} short"
    return ""
