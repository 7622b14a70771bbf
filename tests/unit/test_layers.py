"""
Imports go down only, as the table of the rooms says; drivers know nothing of the server but its public modules.

Every import counts: relative ones, those inside functions, and those for types alone (C{TYPE_CHECKING}).
"""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import fluidvm
from fluidvm.tools.rooms import Rooms, draw

ROOT = Path(fluidvm.__file__).parent
DOCS = ROOT.parent / "docs"
ROOMS = Rooms.read(DOCS / "rooms.toml")


def name_of(path: Path) -> str:
    """A file's module, by its dotted name below C{fluidvm}; a package's is its directory's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Migrations are history: alembic finds them by their directory.
FILES = {
    name_of(path): path
    for path in sorted([*ROOT.rglob("*.py"), *(ROOT / "drivers").rglob("*.py")])
    if path.parent != ROOT or path.name != "__init__.py"
    if "migrations" not in path.parts
}
"""Every module, by its dotted name below C{fluidvm}."""


def imports(text: str, package: str | None) -> set[str]:
    """
    Tell every module of FluidVM that a file imports.

    @param package: the dotted name of the package that the file lies in, below C{fluidvm}; C{None}: it lies elsewhere.
    @return: dotted names below C{fluidvm}; what is no module is left out, and C{__version__} is none.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                if package is None:
                    continue
                parts = ["fluidvm", *package.split(".")] if package else ["fluidvm"]
                module = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [module])])
            for alias in node.names:
                # from package import module, or from module import name
                whole = f"{module}.{alias.name}"
                found.add(whole if whole.removeprefix("fluidvm.") in FILES else module)
    return {name.removeprefix("fluidvm.") for name in found if name.startswith("fluidvm.")}


def imports_of(name: str) -> set[str]:
    """As L{imports}, for a module of L{FILES}."""
    path = FILES[name]
    return imports(path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0])


GRAPH = {name: imports_of(name) for name in FILES}


class ImportsTests(SynchronousTestCase):
    """The reading of imports itself."""

    def test_each_kind_is_seen(self) -> None:
        for text in (
            "import fluidvm.store.schema",
            "from fluidvm.store import schema",
            "from fluidvm.store.schema import users",
            "from .schema import users",
            "from . import schema",
            "from ..store.schema import users",
            "def later():\n    from .schema import users",
            "if TYPE_CHECKING:\n    from .schema import users",
        ):
            self.assertEqual(imports(text, "store"), {"store.schema"}, text)
        self.assertEqual(imports("import os\nfrom fluidvm import __version__", "store"), set())


class RoomsTests(SynchronousTestCase):
    def test_every_module_has_a_room(self) -> None:
        self.assertEqual([name for name in FILES if ROOMS.room_of(name) is None], [])

    def test_the_table_names_modules_that_are_there(self) -> None:
        self.assertEqual([name for room in ROOMS.by_name.values() for name in room.modules if name not in FILES], [])

    def test_imports_go_down(self) -> None:
        """To the rooms that the table names; a package's C{__init__} may gather what lies in the package's own rooms."""
        wrong = []
        for name, targets in GRAPH.items():
            room = ROOMS.by_name[ROOMS.room_of(name) or ""]
            for target in targets:
                other = ROOMS.room_of(target) or ""
                gathers = FILES[name].name == "__init__.py" and target.startswith(f"{name}.")
                if other != room.name and other not in room.imports and not gathers:
                    wrong.append(f"{name} imports {target}, but {room.name} doesn't import {other or 'that'}")
        self.assertEqual(wrong, [])

    def test_the_table_allows_no_more_than_is_used(self) -> None:
        used: dict[str, set[str | None]] = {}
        for name, targets in GRAPH.items():
            used.setdefault(ROOMS.room_of(name) or "", set()).update(map(ROOMS.room_of, targets))
        unused = {name: set(room.imports) - used.get(name, set()) for name, room in ROOMS.by_name.items()}
        self.assertEqual({name: rooms for name, rooms in unused.items() if rooms}, {})

    def test_no_circles(self) -> None:
        """Within a room too: what a module imports doesn't import it."""
        done: set[str] = set()

        def visit(name: str, trail: tuple[str, ...]) -> None:
            self.assertNotIn(name, trail, " -> ".join((*trail, name)))
            if name not in done:
                for target in sorted(GRAPH.get(name, ())):
                    visit(target, (*trail, name))
                done.add(name)

        for name in GRAPH:
            visit(name, ())

    def test_each_room_says_what_it_is_and_who_may_import_it(self) -> None:
        for name, room in ROOMS.by_name.items():
            if not room.modules and name in FILES and FILES[name].name == "__init__.py":
                said = " ".join((ast.get_docstring(ast.parse(FILES[name].read_text())) or "").split())
                for sentence in ROOMS.docstring(name).split("\n\n"):
                    self.assertIn(sentence, said, f"fluidvm/{name.replace('.', '/')}/__init__.py")

    def test_the_picture_is_the_table(self) -> None:
        self.assertEqual((DOCS / "rooms.svg").read_text(), draw(ROOMS), "run python -m fluidvm.tools.rooms docs")

    def test_a_table_with_a_circle_is_refused(self) -> None:
        path = Path(self.mktemp())
        path.write_text('[a]\npurpose = ""\nimports = ["b"]\n[b]\npurpose = ""\nimports = ["a"]\n')
        self.assertRaises(ValueError, Rooms.read, path)


class StrangersTests(SynchronousTestCase):
    def test_drivers_import_their_interface_only(self) -> None:
        foreign = {
            f"{name} imports {target}"
            for name, targets in GRAPH.items()
            if name.startswith("drivers")
            for target in targets
            if target != "driver" and not target.startswith("drivers.")
        }
        self.assertEqual(foreign, set())

    def test_the_example_is_a_stranger(self) -> None:
        """What a third party's driver can do with the public modules alone."""
        examples = sorted(ROOT.parent.glob("examples/*"))
        self.assertNotEqual(examples, [])
        for example in examples:
            for part, allowed in (("src", {"driver"}), ("tests", {"driver", "conformance"})):
                files = sorted(example.glob(f"{part}/**/*.py"))
                self.assertNotEqual(files, [])
                for path in files:
                    self.assertEqual(imports(path.read_text(), None) - allowed, set(), str(path))

    def test_only_the_service_names_the_reactor(self) -> None:
        for name, path in FILES.items():
            if path.name != "service.py":
                self.assertNotIn("import reactor", path.read_text(), name)
