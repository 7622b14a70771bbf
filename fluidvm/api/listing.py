"""Lists of objects: filters, selected fields, pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from twisted.logger import Logger

from fluidvm.access.call import Call
from fluidvm.auth.permissions import reads_all
from fluidvm.inventory.inventory import Entry, missing
from fluidvm.model.xmlvalue import INT_HIGH, INT_LOW, Members, Rendered, render

_log = Logger()
_PAGING = ("fields", "limit", "after")


def show(call: Call, type_name: str, id: int) -> Rendered:
    """Return one object, as the caller may see it. @raise NotFound: it doesn't exist, or the caller may not see it."""
    entry = call.inventory.visible(type_name, id, call.user)
    if entry is None:
        raise missing(type_name, id)
    return _render(call, entry)


def _render(call: Call, entry: Entry) -> Rendered:
    return entry.full(call.inventory) if reads_all(call.user) else entry.public(call.inventory)


def list_objects(call: Call, type_name: str, wanted: dict[str, Any]) -> Members:
    """
    Return the objects of a type that the caller may see.

    @param wanted: a checked filter.
    @return: must be rendered in the same reactor turn, because it reads the inventory when it is rendered.
    """
    inventory, viewer = call.inventory, call.user
    entries = inventory.shown(type_name, viewer, wanted.get("after", 0))
    limit = wanted.get("limit", INT_HIGH)
    equal = {key: value for key, value in wanted.items() if key not in _PAGING}
    fields = wanted.get("fields")
    if equal or fields is not None:
        return Members(islice(_select(call, entries, equal, fields), limit))
    if reads_all(viewer):
        return Members(entry.full(inventory) for entry in islice(entries, limit))
    return Members(entry.public(inventory) for entry in islice(entries, limit))


def _select(call: Call, entries: Any, equal: dict[str, Any], fields: list[str] | None) -> Iterator[bytes]:
    inventory, everything = call.inventory, reads_all(call.user)
    hidden: tuple[str, ...] = ()
    asked: list[str] | None = None
    for entry in entries:
        wire = entry.wire(inventory)
        if asked is None:  # the same for all objects of a type
            hidden = () if everything else getattr(entry.object, "HIDDEN", ())
            asked = [key for key in dict.fromkeys(fields or ()) if key not in hidden]
        if any(key in hidden or wire.get(key) != value for key, value in equal.items()):
            continue
        if fields is None:
            yield _render(call, entry)
        else:
            yield entry.only(inventory, asked)


@lru_cache(maxsize=1000)
def _tell(kind: str, id: int) -> None:
    """Log only once per object: lists can be requested often."""
    _log.failure("{kind} {id} can't be shown", kind=kind, id=id)


def listed(kind: str, wires: Iterable[dict[str, Any]], wanted: dict[str, Any]) -> Members:
    """
    Render a list that isn't from the inventory.

    @param kind: what a member is called, for the log.
    @param wanted: a checked filter, of which only C{fields} is applied.
    """
    return Members(shown(kind, wire, wanted) for wire in wires)


def page(kind: str, wires: Iterable[dict[str, Any]], wanted: dict[str, Any], key: str = "name") -> Members:
    """
    Render the page that a filter selects from a list that isn't from the inventory.

    @param kind: what a member is called, for the log.
    @param wanted: a checked filter.
    @param key: the field to sort by; it is unique.
    """
    return listed(kind, selected(wires, wanted, key), wanted)


def selected(wires: Iterable[dict[str, Any]], wanted: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Like L{page}, but return the complete structs, not rendered."""
    after = wanted.get("after")
    found = [wire for wire in wires if (after is None or wire[key] > after) and keep(wire, wanted)]
    found.sort(key=lambda wire: wire[key])  # type: ignore[no-any-return]
    return found[: wanted.get("limit")]


def shown(kind: str, wire: dict[str, Any], wanted: dict[str, Any]) -> bytes:
    """
    Render one member of a list.

    A member that can't be rendered is replaced by its id, its name and C{broken}, and is logged once.
    """
    try:
        return render(cut(wire, wanted))
    except Exception:
        id, name = wire.get("id"), wire.get("name")
        _tell(kind, id if type(id) is int else 0)
        known = {
            "id": id if type(id) is int and INT_LOW <= id <= INT_HIGH else None,
            "name": str(name) if name else None,
        }
        return render(known | {"broken": True})


def keep(wire: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Tell whether a struct matches a filter."""
    return all(wire.get(key) == value for key, value in wanted.items() if key not in _PAGING)


def cut(wire: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a struct with only the fields that a filter selects."""
    fields = wanted.get("fields")
    return wire if fields is None else {key: wire[key] for key in fields if wire.get(key) is not None}
