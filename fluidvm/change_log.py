"""The newest part of the change log, in memory: what `ping` and `get_changes` read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter

from fluidvm.store.objects import ChangeRow

WINDOW = 100_000
"""How many lines are remembered at least, here and in the store."""

_serial = itemgetter(0)


class ChangeLog:
    """The lines of the change log, oldest first."""

    def __init__(self) -> None:
        self._rows: list[ChangeRow] = []
        self.serial = 0
        self._forgotten = 0

    def load(self, rows: Iterable[ChangeRow]) -> None:
        """Start with what the store remembers."""
        self._rows = list(rows)
        if self._rows:
            self._forgotten = self._rows[0].serial - 1
            self.serial = self._rows[-1].serial

    def add(self, rows: Iterable[ChangeRow]) -> bool:
        """Take on new lines. Tells whether old ones were forgotten: the store can do so too."""
        self._rows.extend(rows)
        if self._rows:
            self.serial = self._rows[-1].serial
        if len(self._rows) > 2 * WINDOW:
            del self._rows[:-WINDOW]
            self._forgotten = self._rows[0].serial - 1
            return True
        return False

    def remembers(self, since: int) -> bool:
        """Tell whether every change after a serial is still known."""
        return self._forgotten <= since <= self.serial

    def since(self, serial: int, everything: bool, owner: int) -> list[dict[str, object]]:
        """
        Sum up what changed after a serial.

        @param everything: of all owners; else only what is C{owner}'s or everyone's.
        @return: each object once, the one whose first change is oldest first; what was created and deleted in between is
            left out.
        """
        first: dict[tuple[str, int], str] = {}
        last: dict[tuple[str, int], str] = {}
        rows = self._rows
        for place in range(bisect_right(rows, serial, key=_serial), len(rows)):
            row = rows[place]
            if everything or row.owner is None or row.owner == owner:
                key = (row.type, row.id)
                first.setdefault(key, row.change)
                last[key] = row.change
        summed = []
        for (type_name, id), change in first.items():
            if last[type_name, id] == "deleted":
                if change == "created":
                    continue
                change = "deleted"
            summed.append({"type": type_name, "id": id, "change": change})
        return summed
