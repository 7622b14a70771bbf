"""Kinds of values for the server's options, in addition to those for API arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluidvm.model.kinds import Bool, Kind, References, refuse


@dataclass(frozen=True)
class Switch(Bool):
    """An option without a value: off by default, on when given."""

    def bounds(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class FilePath(Kind):
    """
    The path of a file; the value is absolute.

    @ivar pattern: the files that shell completion offers.
    """

    pattern: str = "*"

    wire = "string"
    python = str

    def accept(self, value: str, path: str, found: References) -> Path:
        if not value:
            refuse(path, "is empty")
        return Path(value).absolute()

    def bounds(self) -> str:
        return "a path"


@dataclass(frozen=True)
class DirectoryPath(FilePath):
    """The path of a directory."""


@dataclass(frozen=True)
class DatabaseUrl(Kind):
    """The URL of a database. It is validated when the server starts."""

    wire = "string"
    python = str

    def bounds(self) -> str:
        return "sqlite:///PATH or postgresql://USER@HOST/NAME"


@dataclass(frozen=True)
class Endpoints(Kind):
    """Twisted endpoint strings; the option can be repeated. They are validated when the server starts."""

    wire = "array"
    python = list

    def check(self, value: Any, path: str, found: References) -> tuple[str, ...]:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            refuse(path, "must be endpoints")
        return tuple(value)

    def bounds(self) -> str:
        return "a Twisted endpoint string such as tcp:8000"


@dataclass(frozen=True)
class Words(Kind):
    """
    Words separated by commas.

    @ivar rule: what the words are.
    @ivar make: converts the words to the value. Raises C{ValueError} if one of them is not valid.
    """

    rule: str = ""
    make: Callable[[tuple[str, ...]], Any] = tuple

    wire = "string"
    python = str

    def accept(self, value: str, path: str, found: References) -> Any:
        try:
            return self.make(tuple(word.strip() for word in value.split(",") if word.strip()))
        except ValueError:
            refuse(path, f"must be {self.rule}")

    def bounds(self) -> str:
        return self.rule
