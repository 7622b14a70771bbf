"""How much of everything each user holds: summed up as objects come and go, and what tasks under way have reserved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping

from fluidvm.objects import VM, Disk, Object

LIMITS = ("vms", "running_vms", "vcpus", "memory", "disks", "disk_space", "snapshots")
"""What a resource plan bounds in all."""


def amounts(thing: Object) -> dict[str, int]:
    """Tell what an object takes of its owner's plan."""
    if isinstance(thing, VM):
        return {"vms": 1, "running_vms": int(thing.powered), "vcpus": thing.vcpus, "memory": thing.memory}
    if isinstance(thing, Disk):
        return {"disks": 1, "disk_space": thing.size}
    return {}


class Ledger:
    """
    Sums per user.

    What a task is about to take is reserved, in the same turn of the reactor in which it was found to fit; so two that run
    at the same time can't both take the last of it.
    """

    def __init__(self) -> None:
        self._used: dict[int, Counter[str]] = {}
        self._reserved: dict[int, Counter[str]] = {}
        self._reservations: dict[Hashable, tuple[int, dict[str, int]]] = {}

    def add(self, thing: Object) -> None:
        """An object is there."""
        if isinstance(thing, VM | Disk):
            self._used.setdefault(thing.owner, Counter()).update(amounts(thing))

    def remove(self, thing: Object) -> None:
        """An object isn't there any more."""
        if isinstance(thing, VM | Disk):
            self._used[thing.owner].subtract(amounts(thing))

    def used(self, owner: int, limit: str) -> int:
        """Tell what a user holds."""
        return self._used[owner][limit] if owner in self._used else 0

    def taken(self, owner: int, limit: str) -> int:
        """Tell what a user holds or has reserved."""
        reserved = self._reserved.get(owner)
        return self.used(owner, limit) + (0 if reserved is None else reserved[limit])

    def reserve(self, key: Hashable, owner: int, asked: Mapping[str, int]) -> None:
        """Set something aside. C{key}: who does, for L{release}; what it had reserved before is given back."""
        self.release(key)
        self._reservations[key] = owner, dict(asked)
        self._reserved.setdefault(owner, Counter()).update(asked)

    def release(self, key: Hashable) -> None:
        """Give back what was reserved and not used; nothing where nothing was."""
        reservation = self._reservations.pop(key, None)
        if reservation is not None:
            owner, asked = reservation
            self._reserved[owner].subtract(asked)
            if not any(self._reserved[owner].values()):
                del self._reserved[owner]
