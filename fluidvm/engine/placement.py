"""Where a VM or a disk goes when no compute node is named: a pure function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fluidvm.objects import ComputeNode


def choose(
    nodes: Iterable[ComputeNode],
    *,
    used: Callable[[ComputeNode], tuple[int, int]],
    able: Callable[[ComputeNode], bool],
    memory: int = 0,
    driver: str | None = None,
    labels: Sequence[str] = (),
    allowed: Callable[[str], bool] = lambda driver: True,
) -> tuple[ComputeNode | None, list[str]]:
    """
    Choose the compute node with the most free memory among those that fit.

    @param used: tells a node's used vcpus and MiB of memory.
    @param able: tells whether a node's driver can do what is asked.
    @param memory: MiB that must be free.
    @param driver: only nodes of this driver.
    @param labels: only nodes with all of these.
    @param allowed: tells whether the owner may use a driver.
    @return: the node, or C{None}; and why each of the others didn't fit.
    """
    fitting: list[tuple[int, int, ComputeNode]] = []
    reasons: list[str] = []
    for node in nodes:
        free = node.memory - used(node)[1]
        lacking = [label for label in labels if label not in node.labels]
        if driver is not None and node.driver != driver:
            reasons.append(f"{node.name}: its driver is {node.driver}")
        elif not allowed(node.driver):
            reasons.append(f"{node.name}: the resource plan hasn't driver {node.driver}")
        elif lacking:
            reasons.append(f"{node.name}: no label {lacking[0]}")
        elif node.mode != "active":
            reasons.append(f"{node.name}: {node.mode}")
        elif node.state != "online":
            reasons.append(f"{node.name}: {node.state}")
        elif not able(node):
            reasons.append(f"{node.name}: driver {node.driver} can't do it")
        elif free < memory:
            reasons.append(f"{node.name}: memory, {memory - free} MiB short")
        else:
            fitting.append((-free, node.id, node))
    return (min(fitting)[2] if fitting else None), reasons
