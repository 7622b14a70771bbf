"""The newest part of the change log, in memory: what `ping` and `get_changes` read."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable

from fluidvm.store.objects import ChangeRow

WINDOW = 100_000
"""Minimum number of lines that are kept, here and in the store."""
EVERYONE = -1
"""Stands for the owner of objects that have none, which everyone may see."""


class ChangeLog:
    """The lines of the change log, oldest first; stored in columns, which take a tenth of the memory of tuples."""

    def __init__(self) -> None:
        self._serials = array("q")
        self._ids = array("q")
        self._owners = array("q")
        self._kinds = array("H")
        self._known_kinds: list[tuple[str, str]] = []
        self._kind_of: dict[tuple[str, str], int] = {}
        self.serial = 0
        self._forgotten = 0

    def load(self, rows: Iterable[ChangeRow]) -> None:
        """Load the lines that are in the store."""
        self.add(rows)
        if self._serials:
            self._forgotten = self._serials[0] - 1

    def add(self, rows: Iterable[ChangeRow]) -> bool:
        """Add new lines. @return: whether old ones were dropped, so that the store can drop them too."""
        for serial, type_name, id, change, owner in rows:
            self._serials.append(serial)
            self._ids.append(id)
            self._owners.append(EVERYONE if owner is None else owner)
            self._kinds.append(self._kind(type_name, change))
        if self._serials:
            self.serial = self._serials[-1]
        if len(self._serials) > 2 * WINDOW:
            for column in (self._serials, self._ids, self._owners, self._kinds):
                del column[:-WINDOW]
            self._forgotten = self._serials[0] - 1
            return True
        return False

    def _kind(self, type_name: str, change: str) -> int:
        kind = self._kind_of.get((type_name, change))
        if kind is None:
            kind = self._kind_of[type_name, change] = len(self._known_kinds)
            self._known_kinds.append((type_name, change))
        return kind

    def remembers(self, since: int) -> bool:
        """Return whether the log still has every change after a serial."""
        return self._forgotten <= since <= self.serial

    def since(self, serial: int, everything: bool, owner: int) -> list[dict[str, object]]:
        """
        Summarize the changes after a serial.

        @param everything: whether to include the objects of all owners; otherwise only those of C{owner} and those without
            an owner are included.
        @return: each changed object once, in the order of their first changes. Objects that were both created and deleted
            after the serial are left out.
        """
        first: dict[tuple[str, int], str] = {}
        last: dict[tuple[str, int], str] = {}
        for place in range(bisect_right(self._serials, serial), len(self._serials)):
            if everything or self._owners[place] in (EVERYONE, owner):
                type_name, change = self._known_kinds[self._kinds[place]]
                key = (type_name, self._ids[place])
                first.setdefault(key, change)
                last[key] = change
        summed = []
        for (type_name, id), change in first.items():
            if last[type_name, id] == "deleted":
                if change == "created":
                    continue
                change = "deleted"
            summed.append({"type": type_name, "id": id, "change": change})
        return summed
