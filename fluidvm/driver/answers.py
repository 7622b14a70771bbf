"""
Limits the answers of drivers to what the wire format and the store can represent.

A host, a guest's agent or a file can return anything: numbers beyond 32 bits, characters that XML or a database doesn't
allow, text instead of a number. All answers are limited here, where they come in, so that no other code has to check them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from operator import is_
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from fluidvm.driver import DomainStats, DriverError
from fluidvm.model.xmlvalue import INT_HIGH, INT_LOW, LATEST, clean

LONGEST = 2**20
"""Maximum length of a text, in characters."""
COUNTER = 2**53
"""Counters of bytes are sent as doubles, which are exact up to this number."""


def within(value: Any) -> Any:
    """
    Limit a driver's answer.

    Numbers outside a field's range become the nearest number within it. Characters that can't be sent become U+FFFD, and
    long texts are cut. Bytes, and numbers that aren't in a field, are left unchanged.

    @param value: what a verb's Deferred fired with.
    @return: the same object, or a changed copy.
    @raise DriverError: a field has a value of a wrong type.
    """
    if isinstance(value, str) and not isinstance(value, Enum):
        return clean(value[:LONGEST])
    if type(value) in (list, tuple):
        found = [within(one) for one in value]
        return value if all(map(is_, found, value)) else type(value)(found)
    if is_dataclass(value) and not isinstance(value, type):
        return _bounded(value)
    return value


@dataclass(frozen=True)
class _Field:
    """The values that a field can have: one of C{types}, or, if C{row}, a tuple of them."""

    name: str
    types: tuple[type, ...]
    row: bool


@cache
def _fields(kind: Any) -> tuple[_Field, ...]:
    hints = get_type_hints(kind)
    return tuple(_field(one.name, hints[one.name]) for one in fields(kind))


def _field(name: str, hint: Any) -> _Field:
    if get_origin(hint) is tuple:
        return _Field(name, get_args(hint)[:1], True)
    return _Field(name, get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,), False)


def _bounded(answer: Any) -> Any:
    changed: dict[str, Any] = {}
    kind: Any = type(answer)
    for field in _fields(kind):
        value = getattr(answer, field.name)
        found = _row(answer, field, value) if field.row else _one(answer, field, value)
        if found is not value:
            changed[field.name] = found
    return replace(answer, **changed) if changed else answer


def _row(answer: Any, field: _Field, value: Any) -> Any:
    if type(value) not in (list, tuple) or not all(isinstance(one, field.types) for one in value):
        _wrong(answer, field)
    return within(value)


def _one(answer: Any, field: _Field, value: Any) -> Any:
    if float in field.types and type(value) is int:
        value = float(max(0, min(COUNTER, value)))
    if not isinstance(value, field.types) or (type(value) is bool and bool not in field.types):
        _wrong(answer, field)
    if type(value) is int:
        if isinstance(answer, DomainStats) and field.name != "memory":
            return max(0, min(COUNTER, value))
        return max(INT_LOW, min(INT_HIGH, value))
    if type(value) is float:
        if value != value:
            _wrong(answer, field)
        return max(0.0, min(LATEST, value))
    return within(value)


def _wrong(answer: Any, field: _Field) -> NoReturn:
    raise DriverError(f"The driver returned an invalid answer: {field.name} of {type(answer).__name__} has a wrong type.")
