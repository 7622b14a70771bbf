"""The ledger: the resources that each user and each compute node uses, and those that running tasks have reserved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Protocol

from fluidvm.model.objects import VM, Disk, Image, Object

LIMITS = ("vms", "running_vms", "vcpus", "memory", "disks", "disk_space", "snapshots")
"""The limits of a resource plan that apply to the total of a user's objects."""


Account = tuple[str, int]
"""C{("user", id)}, C{("compute_node", id)} or C{("mac", number)}."""


def of_user(id: int) -> Account:
    """A user's account."""
    return ("user", id)


def of_node(id: int) -> Account:
    """A compute node's account."""
    return ("compute_node", id)


def of_mac(mac: str) -> Account:
    """A MAC address's account, which has one of C{interfaces} at most."""
    return ("mac", int(mac.replace(":", ""), 16))


class Shaped(Protocol):
    """A VM, or the specification of one. Memory in MiB."""

    @property
    def vcpus(self) -> int: ...
    @property
    def max_vcpus(self) -> int: ...
    @property
    def memory(self) -> int: ...
    @property
    def max_memory(self) -> int: ...


def can_get(thing: Shaped) -> dict[str, int]:
    """
    Return the maximum that a VM can use, which is what counts: it can grow to its maxima while it runs, without any check.

    @return: C{vcpus}, and C{memory} in MiB.
    """
    return {"vcpus": max(thing.vcpus, thing.max_vcpus), "memory": max(thing.memory, thing.max_memory)}


def amounts(thing: Object) -> dict[str, int]:
    """Return the amounts by which an object counts for its owner's resource plan and for its compute node."""
    if isinstance(thing, VM):
        return {"vms": 1, "running_vms": int(thing.powered), "snapshots": len(thing.snapshots), **can_get(thing)}
    if isinstance(thing, Disk):
        return {"disks": 1, "disk_space": thing.size, "snapshots": len(thing.snapshots)}
    if isinstance(thing, Image):
        return {"disk_space": thing.space}
    return {}


class Ledger:
    """
    The sums of each account.

    A task reserves what it is about to use, in the same turn of the reactor in which it checks the limit. So two tasks that
    run at the same time can't both use the last of it.
    """

    def __init__(self) -> None:
        self._used: dict[Account, Counter[str]] = {}
        self._reserved: dict[Account, Counter[str]] = {}
        self._reservations: dict[Hashable, list[tuple[Account, dict[str, int]]]] = {}
        self._counted: dict[Hashable, tuple[Account, dict[str, int]]] = {}

    def add(self, thing: Object) -> None:
        """Add an object to its accounts."""
        if isinstance(thing, Image):
            self._used.setdefault(of_user(thing.owner), Counter()).update(amounts(thing))
        if isinstance(thing, VM | Disk):
            taken = amounts(thing)
            for account in (("user", thing.owner), ("compute_node", thing.compute_node)):
                self._used.setdefault(account, Counter()).update(taken)
        if isinstance(thing, VM):
            for interface in thing.interfaces:
                self._used.setdefault(of_mac(interface["mac"]), Counter()).update({"interfaces": 1})

    def remove(self, thing: Object) -> None:
        """Remove an object from its accounts."""
        if isinstance(thing, Image):
            self._used[of_user(thing.owner)].subtract(amounts(thing))
        if isinstance(thing, VM | Disk):
            taken = amounts(thing)
            for account in (("user", thing.owner), ("compute_node", thing.compute_node)):
                self._used[account].subtract(taken)
        if isinstance(thing, VM):
            for interface in thing.interfaces:
                del self._used[of_mac(interface["mac"])]

    def count(self, key: Hashable, account: Account, amounts: Mapping[str, int]) -> tuple[Account, dict[str, int]] | None:
        """
        Count something that is not an object, such as an upload, as used. This replaces the former amounts of C{key}.

        @param amounts: empty if it doesn't exist any more.
        @return: the former account and amounts of C{key}; C{None} if there were none.
        """
        former = self._counted.pop(key, None)
        if former is not None:
            self._used[former[0]].subtract(former[1])
        if amounts:
            self._counted[key] = (account, dict(amounts))
            self._used.setdefault(account, Counter()).update(amounts)
        return former

    def used(self, account: Account, what: str) -> int:
        """Return the amount that an account uses."""
        return self._used[account][what] if account in self._used else 0

    def taken(self, account: Account, what: str) -> int:
        """Return the amount that an account uses or has reserved."""
        reserved = self._reserved.get(account)
        return self.used(account, what) + (0 if reserved is None else reserved[what])

    def reserve(self, key: Hashable, account: Account, asked: Mapping[str, int]) -> None:
        """Reserve amounts, in addition to those that C{key} has already reserved, until L{release} is called."""
        wanted = {what: amount for what, amount in asked.items() if amount > 0}
        if wanted:
            self._reservations.setdefault(key, []).append((account, wanted))
            self._reserved.setdefault(account, Counter()).update(wanted)

    def release(self, key: Hashable) -> None:
        """Release everything that C{key} has reserved. Does nothing if there is none."""
        for account, asked in self._reservations.pop(key, ()):
            self._reserved[account].subtract(asked)
            if not any(self._reserved[account].values()):
                del self._reserved[account]
