"""Kinds of value that only the server's options have, beside those of the API's arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluidvm.model.kinds import Bool, Kind, References, refuse


@dataclass(frozen=True)
class Switch(Bool):
    """An option that is off unless it is given."""

    def bounds(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class FilePath(Kind):
    """
    The path of a file; the value is absolute.

    @ivar pattern: which files a shell offers to complete it.
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
    """The URL of a database. What it means is checked when the server starts."""

    wire = "string"
    python = str

    def bounds(self) -> str:
        return "sqlite:///PATH or postgresql://USER@HOST/NAME"


@dataclass(frozen=True)
class Endpoints(Kind):
    """Twisted endpoint strings; the option can be repeated. Whether they can be used is checked when the server starts."""

    wire = "array"
    python = list

    def check(self, value: Any, path: str, found: References) -> tuple[str, ...]:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            refuse(path, "wants endpoints")
        return tuple(value)

    def bounds(self) -> str:
        return "a Twisted endpoint string such as tcp:8000"


@dataclass(frozen=True)
class Words(Kind):
    """
    Words that are separated by commas.

    @ivar rule: what the words are.
    @ivar make: makes the value of them. It raises C{ValueError} if one of them is wrong.
    """

    rule: str = ""
    make: Callable[[tuple[str, ...]], Any] = tuple

    wire = "string"
    python = str

    def accept(self, value: str, path: str, found: References) -> Any:
        try:
            return self.make(tuple(word.strip() for word in value.split(",") if word.strip()))
        except ValueError:
            refuse(path, f"wants {self.rule}")

    def bounds(self) -> str:
        return self.rule
