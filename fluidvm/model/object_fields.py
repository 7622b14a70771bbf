"""
Derives an object's wire form and its columns in the store from the declaration of its fields.

A field is listed once, in its dataclass. If its type does not say everything, the declaration has a L{Form}:
C{Annotated[float, Form(wire=datetime, show=moment)]}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, Union, get_args, get_origin, get_type_hints

from fluidvm.model.xmlvalue import total

Fields = Mapping[str, type]
"""The keys of a wire form, in order, and the type of each."""


@dataclass(frozen=True)
class Form:
    """
    Properties of a field that its type does not express.

    @ivar wire: its type on the wire; C{None} for the field's own type.
    @ivar show: converts the field's value, which is never C{None}, to the value on the wire. If it returns C{None}, the key
        is absent.
    @ivar name: its key on the wire; empty for the field's own name.
    @ivar hidden: whether it is left out of the wire form.
    @ivar stored: whether the store has a column for it.
    @ivar wide: whether its column holds 64 bits.
    """

    wire: type | None = None
    show: Callable[[Any], Any] | None = None
    name: str = ""
    hidden: bool = False
    stored: bool = True
    wide: bool = False


class Field(NamedTuple):
    """
    One field of a class.

    @ivar name: of the attribute, and of its column.
    @ivar type: C{int}, C{float}, C{str}, C{bool}, C{list} or C{dict}.
    @ivar form: its form.
    @ivar optional: whether it can be C{None}.
    """

    name: str
    type: type
    form: Form
    optional: bool


class Declared(Protocol):
    """
    An instance of a dataclass whose fields have forms.

    @cvar RELATED: the keys whose values are derived from other objects.
    @cvar COMPUTED: properties that are also on the wire, with the types that they return.
    """

    RELATED: ClassVar[Fields]
    COMPUTED: ClassVar[tuple[str, ...]]


def fields_of(cls: type) -> tuple[Field, ...]:
    """Return the fields of a dataclass, in order."""
    return _fields_of(cls)


@cache
def _fields_of(cls: type) -> tuple[Field, ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple(_field(one.name, hints[one.name]) for one in fields(cls))


_PLAIN: dict[Any, type] = {tuple: list, Mapping: dict}
"""The types on the wire and in the store for types that only Python has."""

_SHOWS: dict[type, Callable[[Any], Any]] = {list: list, dict: dict}


def _field(name: str, hint: Any) -> Field:
    form, optional = Form(), False
    while get_args(hint) and get_origin(hint) not in (tuple, Mapping):
        if get_origin(hint) is Annotated:
            hint, form = get_args(hint)
        else:
            assert get_origin(hint) in (Union, UnionType), name
            optional = True
            (hint,) = [one for one in get_args(hint) if one is not NoneType]
    bare = get_origin(hint) or hint
    return Field(name, _PLAIN.get(bare, bare), form, optional)


class _Part(NamedTuple):
    """One key of a wire form, made from one attribute."""

    key: str
    attribute: str
    type: type
    show: Callable[[Any], Any] | None


def _show(field: Field) -> Callable[[Any], Any] | None:
    show = field.form.show or _SHOWS.get(field.type)
    if show is None or not field.optional:
        return show
    return lambda value: None if value is None else show(value)


@cache
def _parts(cls: type[Declared]) -> tuple[_Part, ...]:
    parts = [
        _Part(field.form.name or field.name, field.name, field.form.wire or field.type, _show(field))
        for field in fields_of(cls)
        if not field.form.hidden
    ]
    parts += [_Part(name, name, get_type_hints(getattr(cls, name).fget)["return"], None) for name in cls.COMPUTED]
    return tuple(parts)


class _Recipe(NamedTuple):
    """
    How L{wire_form} converts the objects of a class. Prepared once per class, because every changed object is converted.

    @ivar get: returns the values of the attributes.
    @ivar shows: the functions that convert values, each with the index of its key.
    """

    keys: tuple[str, ...]
    get: Callable[[Any], tuple[Any, ...]]
    shows: tuple[tuple[int, Callable[[Any], Any]], ...]


def wire_fields(cls: type[Declared]) -> Fields:
    """Return the keys of the wire form of a class's instances, and their types."""
    return {part.key: part.type for part in _parts(cls)} | dict(cls.RELATED)


@cache
def _recipe(cls: type[Declared]) -> _Recipe:
    parts = _parts(cls)
    shows = tuple((place, part.show) for place, part in enumerate(parts) if part.show is not None)
    return _Recipe(tuple(part.key for part in parts), attrgetter(*(part.attribute for part in parts)), shows)


def wire_form(thing: Declared, related: Mapping[str, Any]) -> dict[str, Any]:
    """
    Make the wire form of an object.

    @param related: the values for the keys in C{RELATED} of its class.
    @return: a struct; keys whose value is C{None} are absent on the wire.
    """
    keys, get, shows = _recipe(type(thing))
    values = list(get(thing))
    for place, show in shows:
        values[place] = show(values[place])
    form = dict(zip(keys, values, strict=True))
    for key, kind in thing.RELATED.items():
        form[key] = total(related[key]) if kind is int else related[key]
    return form
