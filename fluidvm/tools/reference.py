"""
Generates the reference documentation: C{python -m fluidvm.tools.reference docs}.

C{docs/reference.md} lists every method, C{docs/abilities.md} the abilities of each driver, and C{docs/options.md} every
option of the server. A test compares them with the code.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fluidvm import api
from fluidvm.driver import ABILITIES
from fluidvm.driver.loader import DriverLoader
from fluidvm.model.declare import METHODS, Method
from fluidvm.model.kinds import Kind, Struct
from fluidvm.model.object_fields import wire_fields
from fluidvm.model.objects import OBJECT_TYPES, ROLES
from fluidvm.server.option_kinds import Switch
from fluidvm.server.options import CONFIG, OPTIONS

assert api  # importing it declares the methods

_HEAD = "<!-- written by `python -m fluidvm.tools.reference docs`; a test compares it with the code -->\n"


def methods() -> str:
    """The text of C{docs/reference.md}."""
    parts = ["# Every method\n", _HEAD]
    for title, tasks in (("Queries", False), ("Tasks", True)):
        chosen = [method for _, method in sorted(METHODS.items()) if method.task is tasks]
        parts.append(f"## {title}\n")
        parts += [_method(method) for method in chosen]
    parts.append("## Objects\n")
    for name, cls in OBJECT_TYPES.items():
        fields = ", ".join(f"`{field}`" for field in wire_fields(cls))
        parts.append(f"**{name}**: {fields}\n")
    return "\n".join(parts)


def _method(method: Method) -> str:
    lines = [f"### {method.name}\n", f"`{method.usage()}` returns {method.returns}.\n", method.help + "\n"]
    for parameter in method.parameters:
        optional = " (optional)" if parameter.optional else ""
        kind = parameter.kind
        lines.append(f"- `{parameter.name}`{optional}: {kind.wire}: {kind.words}{_bounds(kind)}")
        lines += _fields(kind)
    if method.parameters:
        lines.append("")
    notes = []
    if method.roles != ROLES and not method.anonymous:
        notes.append(f"Roles: {', '.join(method.roles)}.")
    if method.task:
        notes.append(f"If the server crashes during the task: {method.after_crash.value}.")
    if notes:
        lines.append(" ".join(notes) + "\n")
    return "\n".join(lines)


def _bounds(kind: Kind) -> str:
    if isinstance(kind, Struct):
        return ""
    return f" ({kind.bounds()})" if kind.bounds() else ""


def _fields(kind: Kind) -> list[str]:
    if not isinstance(kind, Struct) or kind.fields is None or "after" in kind.fields:
        return []  # the keys are free, or the fields of the listed objects
    return [
        f"  - `{key}`{'' if key in kind.required else ' (optional)'}: {member.wire}: {member.words}{_bounds(member)}"
        for key, member in kind.fields.items()
    ]


def abilities() -> str:
    """The text of C{docs/abilities.md}."""
    loader = DriverLoader()
    # Only the drivers that come with FluidVM, not others that are installed here.
    ours = [driver.name for driver in loader.describe() if driver.distribution == "fluidvm"]
    drivers = {name: loader.get(name) for name in ours}
    parts = ["# What each driver can do\n", _HEAD, f"| | {' | '.join(drivers)} |", "| --- |" + " --- |" * len(drivers)]
    for ability in ABILITIES:
        meaning = (ability.__doc__ or "").strip().splitlines()[0]
        marks = ["yes" if ability.implementedBy(driver.connection) else "" for driver in drivers.values()]
        parts.append(f"| {ability.__name__[1:]}: {meaning} | {' | '.join(marks)} |")
    parts.append("")
    for name, driver in drivers.items():
        parts.append(f"## Options of {name}\n\n{driver.summary}\n")
        parts += [line[2:] for line in _fields(driver.options)]
        parts.append("")
    return "\n".join(parts)


def options() -> str:
    """The text of C{docs/options.md}."""
    parts = [
        "# Options of the server\n",
        _HEAD,
        "Each can be given on the command line (`--name value`) or, except for `--config`, in the configuration file "
        "(`name = value`). [running.md](running.md) explains what they are for.\n",
        "| option | what it does | values | default |\n| --- | --- | --- | --- |",
    ]
    for option in sorted((*OPTIONS, CONFIG), key=lambda option: option.name):
        values = "" if isinstance(option.kind, Switch) else option.kind.bounds()
        parts.append(f"| `--{option.name}` | {option.kind.words} | {values} | {option.shown_default} |")
    return "\n".join(parts) + "\n"


PAGES = {"reference.md": methods, "abilities.md": abilities, "options.md": options}
"""The function that writes each generated file of the documentation."""


def main() -> None:
    """Write the files to the directory in the command line."""
    directory = Path(sys.argv[1])
    for name, text in PAGES.items():
        (directory / name).write_text(text())


if __name__ == "__main__":
    main()
