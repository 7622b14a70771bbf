"""Imports go down only, and drivers know nothing of the server but their interface."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import fluidvm

ROOT = Path(fluidvm.__file__).parent
LAYERS = [
    ["faults", "xmlvalue"],
    ["object_fields"],
    ["kinds", "objects"],
    ["usage", "image_formats"],
    ["driver_values"],
    ["driver_abilities", "driver_console", "driver_guest", "driver_images", "driver_screen", "driver_shares"],
    ["driver", "drivers"],
    ["declare"],
    [
        "store",
        "change_log",
        "inventory",
        "driver_loader",
        "passwords",
        "throttle",
        "logins",
        "certificates",
        "conformance",
        "driver_answers",
    ],
    [
        "audit",
        "belonging",
        "disk_room",
        "image_urls",
        "image_fetch",
        "image_files",
        "patience",
        "node_host",
        "reconcile",
        "driver_words",
    ],
    ["node_storage", "node_snapshots"],
    ["sessions", "engine", "node_watch", "uploads"],
    ["consoles", "transfers"],
    ["call"],
    ["api"],
    ["wire"],
    ["option_kinds"],
    ["options", "devcert", "admin", "preflight", "service", "client", "cli", "reference"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """Every module of FluidVM that a file imports, by its dotted name below C{fluidvm}."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "fluidvm" else {module}
    return {name.removeprefix("fluidvm.") for name in found if name.startswith("fluidvm.")}


class LayersTests(SynchronousTestCase):
    def modules(self) -> list[tuple[str, Path]]:
        found = []
        for path in sorted(ROOT.rglob("*.py")):
            relative = path.relative_to(ROOT)
            if relative.parts[0] != "drivers" and relative.name != "__init__.py" and "migrations" not in relative.parts:
                found.append((relative.with_suffix("").parts[0], path))
        return found

    def test_every_module_has_a_layer(self) -> None:
        self.assertEqual([str(path) for name, path in self.modules() if name not in RANK], [])

    def test_imports_go_down(self) -> None:
        upward = [
            f"{path.relative_to(ROOT)} imports {target}"
            for name, path in self.modules()
            for target in imports(path)
            if target.split(".")[0] != "__version__" and RANK[target.split(".")[0]] > RANK[name]
        ]
        self.assertEqual(upward, [])

    def test_no_circles(self) -> None:
        """Within a layer too: what a module imports doesn't import it."""
        graph: dict[str, set[str]] = {}
        for _, path in self.modules():
            graph[".".join(path.relative_to(ROOT).with_suffix("").parts)] = imports(path)
        done: set[str] = set()

        def visit(name: str, trail: tuple[str, ...]) -> None:
            self.assertNotIn(name, trail, " -> ".join((*trail, name)))
            if name not in done:
                for target in graph.get(name, ()):
                    visit(target, (*trail, name))
                done.add(name)

        for name in graph:
            visit(name, ())

    def test_drivers_import_their_interface_only(self) -> None:
        for path in sorted((ROOT / "drivers").glob("*.py")):
            foreign = {name for name in imports(path) if name != "driver" and not name.startswith("drivers.")}
            self.assertEqual(foreign, set(), path.name)

    def test_the_example_is_a_stranger(self) -> None:
        """What a third party's driver can do with the public modules alone."""
        examples = sorted(ROOT.parent.glob("examples/*"))
        self.assertNotEqual(examples, [])
        for example in examples:
            for part, allowed in (("src", {"driver"}), ("tests", {"driver", "conformance"})):
                files = sorted(example.glob(f"{part}/**/*.py"))
                self.assertNotEqual(files, [])
                for path in files:
                    self.assertEqual(imports(path) - allowed, set(), str(path))

    def test_only_the_service_names_the_reactor(self) -> None:
        for path in sorted(ROOT.rglob("*.py")):
            if path.name != "service.py":
                self.assertNotIn("import reactor", path.read_text(), path.name)
