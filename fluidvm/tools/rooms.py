"""
The rooms of the house: the table C{docs/rooms.toml}, and the picture that is drawn from it.

C{python -m fluidvm.tools.rooms docs} writes C{docs/rooms.svg}. A test compares both with the code.
"""

from __future__ import annotations

import re
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

TABLE = "rooms.toml"
PICTURE = "rooms.svg"

WIDTH, GAP, PAD, HEAD, LINE = 232, 24, 12, 22, 15
"""Sizes in the picture, in pixels: width of a box, gap between boxes, padding, height of its name and of a line of text."""
AISLE = 46
"""Pixels between two levels, for the arrows."""
LETTERS = 34
"""Maximum number of characters in a line of a box."""


@dataclass(frozen=True)
class Room:
    """
    One room.

    @ivar name: the name of its package, below C{fluidvm}.
    @ivar purpose: what it is for.
    @ivar imports: the rooms that it may import, in addition to itself.
    @ivar plug_in: whether it is loaded by its entry point.
    @ivar modules: modules that belong to it, but are located elsewhere.
    """

    name: str
    purpose: str
    imports: tuple[str, ...]
    plug_in: bool = False
    modules: tuple[str, ...] = ()


class Rooms:
    """
    The whole table.

    @param rooms: the rooms, from the lowest up.
    @raise ValueError: a room imports one that is not above it in the table.
    """

    def __init__(self, rooms: Iterable[Room]) -> None:
        self.by_name: dict[str, Room] = {}
        for room in rooms:
            for name in room.imports:
                if name not in self.by_name:
                    raise ValueError(f"Room {room.name} imports {name}, which is not above it in the table.")
            self.by_name[room.name] = room
        self._modules = {module: room.name for room in self.by_name.values() for module in room.modules}

    @classmethod
    def read(cls, path: Path) -> Rooms:
        """Read the table from a TOML file."""
        return cls(
            Room(name, row["purpose"], tuple(row["imports"]), row.get("plug_in", False), tuple(row.get("modules", ())))
            for name, row in tomllib.loads(path.read_text()).items()
        )

    def room_of(self, module: str) -> str | None:
        """
        Return the room of a module: the one with the longest name that the module's name starts with.

        @param module: its dotted name below C{fluidvm}.
        @return: C{None} if it is in no room.
        """
        if module in self._modules:
            return self._modules[module]
        parts = module.split(".")
        names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((name for name in names if name in self.by_name), None)

    def importers(self, name: str) -> list[str]:
        """Return the rooms that may import a room, from the lowest up."""
        return [room.name for room in self.by_name.values() if name in room.imports]

    def docstring(self, name: str) -> str:
        """Return the docstring for a room's C{__init__.py}: what it is for, and who may import it."""
        room, importers = self.by_name[name], self.importers(name)
        if name == "conformance":
            who = "Imported by drivers' own tests, and by nothing of the server."
        elif not importers:
            who = f"Gathered by {name.rpartition('.')[0]}." if "." in name else "Nothing of FluidVM imports it."
        else:
            who = f"Imported by {', '.join(importers)}."
        if room.plug_in:
            who = f"Loaded by its entry point. {who}" if importers else "Loaded by its entry point alone."
        return f"{room.purpose}\n\n{who}"


def _tops(rooms: Rooms) -> Mapping[str, set[str]]:
    """Return the top-level rooms, from the lowest up, with the rooms that they import, except plug-ins."""
    found: dict[str, set[str]] = {}
    for room in rooms.by_name.values():
        top = room.name.split(".")[0]
        imports = {name.split(".")[0] for name in room.imports if not rooms.by_name[name].plug_in}
        found.setdefault(top, set()).update(imports - {top})
    return found


def _levels(tops: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the level of each room: one above the highest room that it imports."""
    levels: dict[str, int] = {}
    left = dict(tops)
    while left:
        for name, imports in list(left.items()):
            if imports <= levels.keys():
                levels[name] = 1 + max((levels[lower] for lower in imports), default=-1)
                del left[name]
    return levels


def _direct(tops: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Return the imports that do not follow from others. The picture would be unreadable with all of them."""

    def below(name: str) -> set[str]:
        return tops[name].union(*(below(lower) for lower in tops[name]))

    return [
        (name, lower)
        for name, imports in tops.items()
        for lower in sorted(imports)
        if not any(lower in below(other) for other in imports if other != lower)
    ]


def draw(rooms: Rooms) -> str:
    """Draw the rooms as SVG, the highest level at the top. Arrows are imports; implied imports are left out."""
    tops = _tops(rooms)
    levels = _levels(tops)
    texts = {name: _words(rooms, name) for name in tops}
    heights = {name: HEAD + LINE * len(lines) + PAD for name, lines in texts.items()}
    rows = [[name for name in tops if levels[name] == level] for level in range(max(levels.values()), -1, -1)]
    width = max(len(row) * (WIDTH + GAP) for row in rows) + GAP
    boxes: dict[str, tuple[float, float]] = {}
    shelves: list[tuple[float, float]] = []
    top = float(GAP)
    for row in rows:
        left = (width - len(row) * (WIDTH + GAP) + GAP) / 2
        for place, name in enumerate(row):
            boxes[name] = (left + place * (WIDTH + GAP), top)
        bottom = top + max(heights[name] for name in row)
        shelves.append((top, bottom))
        top = bottom + AISLE
    height = top - AISLE + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
        "<title>The rooms of FluidVM and who imports whom</title>",
        '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#667"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
    ]
    for name, lower in _direct(tops):
        (left, above), (right, below) = boxes[name], boxes[lower]
        start, end = (left + WIDTH / 2, above + heights[name]), (right + WIDTH / 2, below)
        points = [start]
        for row, (high, low) in zip(rows, shelves, strict=True):
            if start[1] < high and low < end[1]:  # pass between two boxes of a row, not behind one
                edges = [boxes[row[0]][0] - GAP / 2, *(boxes[one][0] + WIDTH + GAP / 2 for one in row)]
                straight = start[0] + (end[0] - start[0]) * (high - start[1]) / (end[1] - start[1])
                across = min(edges, key=lambda edge: abs(edge - straight))
                points += [(across, high), (across, low)]
        parts.append(
            f'<path d="{_line([*points, end])}" fill="none" stroke="#667" stroke-width="1.3" marker-end="url(#end)"/>'
        )
    for name, (left, above) in boxes.items():
        fill = "#fdf3e1" if name == "drivers" else "#eaf1fb"
        parts.append(
            f'<rect x="{left:g}" y="{above:g}" width="{WIDTH}" height="{heights[name]}" rx="6" fill="{fill}" stroke="#557"/>'
        )
        parts.append(f'<text x="{left + PAD:g}" y="{above + 18:g}" font-size="14" font-weight="bold">{name}/</text>')
        for place, line in enumerate(texts[name], 1):
            at = above + 18 + LINE * place
            parts.append(f'<text x="{left + PAD:g}" y="{at:g}" font-size="11">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(points: Sequence[tuple[float, float]]) -> str:
    """Return the path of a curve from top to bottom through points. It is vertical at each of them."""
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for (left, above), (right, below) in pairwise(points):
        middle = (above + below) / 2
        parts.append(f"C{left:g} {middle:g} {right:g} {middle:g} {right:g} {below:g}")
    return "".join(parts)


def _words(rooms: Rooms, name: str) -> list[str]:
    """Return the text of a box below its name: the purpose, and the rooms within."""
    purpose = re.sub(r"[A-Z]\{(.*?)\}|`(.*?)`", r"\1\2", rooms.by_name[name].purpose)  # the markup of docstrings
    lines = textwrap.wrap(purpose, LETTERS)
    within = [other.removeprefix(f"{name}.") for other in rooms.by_name if other.startswith(f"{name}.")]
    return lines + textwrap.wrap(f"Within: {', '.join(within)}", LETTERS) if within else lines


def main() -> None:
    """Draw the table in the directory in the command line."""
    directory = Path(sys.argv[1])
    (directory / PICTURE).write_text(draw(Rooms.read(directory / TABLE)))


if __name__ == "__main__":
    main()
