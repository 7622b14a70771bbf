"""
Kinds of arguments: type, unit, range, pattern and description.

A declaration names a kind as C{Annotated[int, Int("amount of memory", unit="MiB", low=16)]}. A kind checks a value that came
over the wire, collects the ids of the objects that the value names, and describes itself for the help and the reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, NamedTuple, NoReturn

from fluidvm.model.faults import InvalidParams
from fluidvm.model.xmlvalue import INT_HIGH, INT_LOW

_KEY = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,58}[A-Za-z0-9_])?")
"""Unknown keys that a fault quotes. Others, such as an empty key, would make the fault hard to read."""


class Reference(NamedTuple):
    """An object that an argument names: its type, its id, and the argument's dotted path."""

    type: str
    id: int
    path: str


References = list[Reference]

# The names of types in faults: XML-RPC's, not Python's.
_WIRE_NAMES: dict[type, str] = {
    bool: "boolean",
    int: "int",
    str: "string",
    float: "double",
    datetime: "dateTime.iso8601",
    bytes: "base64",
    list: "array",
    dict: "struct",
}


def wire_name(value: object) -> str:
    """Name the XML-RPC type of a parsed value."""
    return _WIRE_NAMES.get(type(value), type(value).__name__)


def struct_of(value: Any) -> Any:
    """Convert an empty array to an empty struct: PHP has one value for both, and sends it as an array."""
    return {} if type(value) is list and not value else value


def refuse(path: str, why: str) -> NoReturn:
    """Raise the fault for a value that doesn't match its declaration."""
    raise InvalidParams(f"{path}: {why}.")


@dataclass(frozen=True)
class Kind:
    """
    The base class of all kinds.

    @ivar words: what the value means, as a noun phrase.
    """

    words: str

    wire: ClassVar[str]
    python: ClassVar[type]
    secret: ClassVar[bool] = False

    def check(self, value: Any, path: str, found: References) -> Any:
        """
        Check one value.

        @param value: as parsed from the wire.
        @param path: the argument's name; a member of a struct has a dotted path.
        @param found: the list to which every object that the value names is added.
        @return: the value to use.
        @raise InvalidParams: the value is not valid; the fault names C{path} and the reason.
        """
        if type(value) is not self.python:
            refuse(path, f"must be {self.article()}, not {wire_name(value)}")
        return self.accept(value, path, found)

    def accept(self, value: Any, path: str, found: References) -> Any:
        """Check a value that has the right type."""
        return value

    def article(self) -> str:
        return ("an " if self.wire[0] in "aeiou" else "a ") + self.wire

    def bounds(self) -> str:
        """The rest of the description, such as range, pattern or choices; may be empty."""
        return ""

    def describe(self) -> str:
        """Describe the kind in one line, for the help and the reference."""
        rest = self.bounds()
        return f"{self.wire}: {self.words}" + (f" ({rest})" if rest else "")


@dataclass(frozen=True)
class Int(Kind):
    """A whole number within a range."""

    unit: str = ""
    low: int = INT_LOW
    high: int = INT_HIGH

    wire = "int"
    python = int

    def accept(self, value: int, path: str, found: References) -> int:
        if not self.low <= value <= self.high:
            refuse(path, f"{value} is out of range: {self.bounds()}")
        return value

    def bounds(self) -> str:
        return f"{self.low} to {self.high}" + (f" {self.unit}" if self.unit else "")


@dataclass(frozen=True)
class Double(Kind):
    """A number within a range; an int is accepted as well."""

    unit: str = ""
    low: float = 0.0
    high: float = 1e9

    wire = "double"
    python = float

    def check(self, value: Any, path: str, found: References) -> float:
        if type(value) is int:
            value = float(value)
        return super().check(value, path, found)  # type: ignore[no-any-return]

    def accept(self, value: float, path: str, found: References) -> float:
        if not self.low <= value <= self.high:
            refuse(path, f"{value:g} is out of range: {self.bounds()}")
        return value

    def bounds(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (f" {self.unit}" if self.unit else "")


@dataclass(frozen=True)
class Serial(Kind):
    """A serial of the change log: an int, or a double if it needs more than 32 bits."""

    wire = "int"
    python = int

    def check(self, value: Any, path: str, found: References) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        return super().check(value, path, found)  # type: ignore[no-any-return]

    def accept(self, value: int, path: str, found: References) -> int:
        if not 0 <= value < 2**53:
            refuse(path, f"{value} is not a valid change serial")
        return value


@dataclass(frozen=True)
class Bool(Kind):
    """True or false."""

    wire = "boolean"
    python = bool


@dataclass(frozen=True)
class Text(Kind):
    """
    A string.

    @ivar longest: maximum length in characters.
    @ivar pattern: the regular expression that the whole string must match.
    @ivar rule: the meaning of C{pattern}, for faults and help.
    """

    longest: int = 255
    pattern: str = ""
    rule: str = ""

    wire = "string"
    python = str

    def accept(self, value: str, path: str, found: References) -> str:
        if len(value) > self.longest:
            refuse(path, f"is longer than {self.longest} characters")
        if self.pattern and re.fullmatch(self.pattern, value) is None:
            refuse(path, f"is not valid; expected {self.rule}")
        return value

    def bounds(self) -> str:
        return f"{self.rule or 'text'}, at most {self.longest} characters"


@dataclass(frozen=True)
class Secret(Text):
    """
    A string that is never logged, stored or listed. It is hashed before a task that contains it is queued.

    @ivar least: minimum length in characters.
    """

    least: int = 0

    secret = True

    def accept(self, value: str, path: str, found: References) -> str:
        if len(value) < self.least:
            refuse(path, f"is shorter than {self.least} characters")
        return super().accept(value, path, found)


@dataclass(frozen=True)
class Choice(Kind):
    """One of a fixed set of strings."""

    choices: tuple[str, ...] = ()

    wire = "string"
    python = str

    def accept(self, value: str, path: str, found: References) -> str:
        if value not in self.choices:
            refuse(path, f"must be {self.bounds()}")
        return value

    def bounds(self) -> str:
        return "one of " + ", ".join(self.choices)


@dataclass(frozen=True)
class Id(Kind):
    """
    The id of an object.

    @ivar type: the type of the object, as in the answer of C{ping}.
    @ivar none: the meaning of 0; empty if 0 has no special meaning.
    """

    type: str = ""
    none: str = ""

    wire = "int"
    python = int

    def accept(self, value: int, path: str, found: References) -> int:
        if not INT_LOW <= value <= INT_HIGH:
            refuse(path, f"{value} is out of range: an id has 32 bits")
        if value == 0 and self.none:
            return value
        found.append(Reference(self.type, value, path))
        return value

    def bounds(self) -> str:
        return f"0: {self.none}" if self.none else ""


@dataclass(frozen=True)
class Array(Kind):
    """A list of values of one kind."""

    of: Kind = field(default_factory=lambda: Text(""))
    longest: int = 64
    unique: bool = False
    shortest: int = 0

    wire = "array"
    python = list

    def accept(self, value: list[Any], path: str, found: References) -> list[Any]:
        if len(value) > self.longest:
            refuse(path, f"has more than {self.longest} members")
        if len(value) < self.shortest:
            refuse(path, f"has fewer than {self.shortest} members")
        checked = [self.of.check(member, f"{path}[{place}]", found) for place, member in enumerate(value)]
        if self.unique and len(set(map(str, checked))) != len(checked):
            refuse(path, "has duplicate members")
        return checked

    def bounds(self) -> str:
        least = f"at least {self.shortest}, " if self.shortest else ""
        return f"of {self.of.describe()}; {least}at most {self.longest}"


@dataclass(frozen=True)
class Struct(Kind):
    """
    A struct with known fields, or with any keys if C{fields} is C{None}.

    @ivar required: the keys that must be present.
    @ivar either: groups of keys; at most one key of each group is allowed.
    """

    fields: Mapping[str, Kind] | None = None
    required: tuple[str, ...] = ()
    either: tuple[tuple[str, ...], ...] = ()

    wire = "struct"
    python = dict

    def check(self, value: Any, path: str, found: References) -> Any:
        return super().check(struct_of(value), path, found)

    def accept(self, value: dict[str, Any], path: str, found: References) -> dict[str, Any]:
        if self.fields is None:
            return value
        for key in value:
            if key not in self.fields:
                known = ", ".join(self.fields) or "none"
                shown = key if _KEY.fullmatch(key) else "?"
                refuse(f"{path}.{shown}", f"is not a known key; known keys: {known}")
        for key in self.required:
            if key not in value:
                refuse(f"{path}.{key}", "is missing")
        for group in self.either:
            given = [key for key in group if key in value]
            if len(given) > 1:
                refuse(f"{path}.{given[1]}", f"can't be combined with {given[0]}")
        return {key: self.fields[key].check(member, f"{path}.{key}", found) for key, member in value.items()}

    def bounds(self) -> str:
        if self.fields is None:
            return "any keys"
        return ", ".join(key + ("" if key in self.required else "?") for key in self.fields)


# The pattern is strict because names are used in paths, command lines and XML documents.
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
NAME_RULE = "1 to 63 letters, digits, dots, dashes and underscores, starting with a letter or digit"


def named(words: str) -> Text:
    """The kind of a name. C{words}: the description of what it names."""
    return Text(words, longest=63, pattern=NAME_PATTERN, rule=NAME_RULE)


Name = Annotated[str, named("a name")]
MiB = Annotated[int, Int("amount of memory", unit="MiB", low=16, high=16 * 1024 * 1024)]
Vcpus = Annotated[int, Int("number of virtual CPUs", low=1, high=1024)]
DiskMiB = Annotated[int, Int("size of a disk", unit="MiB", low=1, high=INT_HIGH)]
Password = Annotated[str, Secret("the new password", longest=1024, least=1)]
Description = Annotated[str, Text("free text", longest=4096)]
VmId = Annotated[int, Id("id of a VM", type="vm")]
DiskId = Annotated[int, Id("id of a disk", type="disk")]
ImageId = Annotated[int, Id("id of an image", type="image")]
UserId = Annotated[int, Id("id of a user", type="user")]
PlanId = Annotated[int, Id("id of a resource plan", type="resource_plan")]
NodeId = Annotated[int, Id("id of a compute node", type="compute_node")]
ContextId = Annotated[int, Id("number of an execution context (EC)", type="execution_context")]
Seconds = Annotated[int, Int("time to wait", unit="s", low=0, high=86400)]


@dataclass(frozen=True)
class Plain(Kind):
    """Any value of one wire type, for comparison."""

    type: type = str

    def check(self, value: Any, path: str, found: References) -> Any:
        if self.type is dict:
            value = struct_of(value)
        if type(value) is not self.type:
            refuse(path, f"must be of type {_WIRE_NAMES[self.type]}, not {wire_name(value)}")
        return value

    wire = "any"
    python = object


def filter_of(fields: Mapping[str, type], key: str = "id") -> Struct:
    """
    Make the kind of a list method's filter.

    @param fields: the keys of the listed structs, and their types.
    @param key: the unique key by which the list is sorted: an int or a string.
    """
    return Struct(
        f"selects objects: a returned field must equal the given value; `fields`: return only these fields; `limit` and "
        f"`after` (the last {key} of the previous page): return one page",
        fields={name: Plain("the value it must equal", type=kind) for name, kind in fields.items()}
        | {
            "fields": Array("the fields to return", of=Choice("a field", choices=tuple(fields)), longest=len(fields)),
            "limit": Int("maximum number of objects", low=0),
            "after": Int(f"only objects after this {key}") if fields[key] is int else Text(f"only objects after this {key}"),
        },
    )
