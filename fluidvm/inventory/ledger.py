"""How much of everything each user and each compute node holds, and what tasks under way have reserved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Protocol

from fluidvm.model.objects import VM, Disk, Image, Object

LIMITS = ("vms", "running_vms", "vcpus", "memory", "disks", "disk_space", "snapshots")
"""What a resource plan bounds in all."""


Account = tuple[str, int]
"""C{("user", id)}, C{("compute_node", id)} or C{("mac", number)}."""


def of_user(id: int) -> Account:
    """A user's account."""
    return ("user", id)


def of_node(id: int) -> Account:
    """A compute node's account."""
    return ("compute_node", id)


def of_mac(mac: str) -> Account:
    """A network address's account: of its C{interfaces} there is one at most."""
    return ("mac", int(mac.replace(":", ""), 16))


class Shaped(Protocol):
    """A VM, or what is to be one. Memory in MiB."""

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
    Tell what a guest can get, which is what counts: it may grow to its maxima while it runs, and nobody is asked then.

    @return: C{vcpus}, and C{memory} in MiB.
    """
    return {"vcpus": max(thing.vcpus, thing.max_vcpus), "memory": max(thing.memory, thing.max_memory)}


def amounts(thing: Object) -> dict[str, int]:
    """Tell what an object takes of its owner's plan, and of its compute node."""
    if isinstance(thing, VM):
        return {"vms": 1, "running_vms": int(thing.powered), "snapshots": len(thing.snapshots), **can_get(thing)}
    if isinstance(thing, Disk):
        return {"disks": 1, "disk_space": thing.size, "snapshots": len(thing.snapshots)}
    if isinstance(thing, Image):
        return {"disk_space": thing.space}
    return {}


class Ledger:
    """
    Sums per account.

    What a task is about to take is reserved, in the same turn of the reactor in which it was found to fit; so two that run
    at the same time can't both take the last of it.
    """

    def __init__(self) -> None:
        self._used: dict[Account, Counter[str]] = {}
        self._reserved: dict[Account, Counter[str]] = {}
        self._reservations: dict[Hashable, list[tuple[Account, dict[str, int]]]] = {}
        self._counted: dict[Hashable, tuple[Account, dict[str, int]]] = {}

    def add(self, thing: Object) -> None:
        """An object is there."""
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
        """An object isn't there any more."""
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
        Count something as used that is no object, in place of what C{key} counted until now; nothing: it is gone.

        @return: the account and the amounts that C{key} counted until now; C{None}: nothing.
        """
        former = self._counted.pop(key, None)
        if former is not None:
            self._used[former[0]].subtract(former[1])
        if amounts:
            self._counted[key] = (account, dict(amounts))
            self._used.setdefault(account, Counter()).update(amounts)
        return former

    def used(self, account: Account, what: str) -> int:
        """Tell what an account holds."""
        return self._used[account][what] if account in self._used else 0

    def taken(self, account: Account, what: str) -> int:
        """Tell what an account holds or has reserved."""
        reserved = self._reserved.get(account)
        return self.used(account, what) + (0 if reserved is None else reserved[what])

    def reserve(self, key: Hashable, account: Account, asked: Mapping[str, int]) -> None:
        """Set something aside, beside what C{key} has set aside already; L{release} gives all of it back."""
        wanted = {what: amount for what, amount in asked.items() if amount > 0}
        if wanted:
            self._reservations.setdefault(key, []).append((account, wanted))
            self._reserved.setdefault(account, Counter()).update(wanted)

    def release(self, key: Hashable) -> None:
        """Give back what was reserved and not used; nothing where nothing was."""
        for account, asked in self._reservations.pop(key, ()):
            self._reserved[account].subtract(asked)
            if not any(self._reserved[account].values()):
                del self._reserved[account]
