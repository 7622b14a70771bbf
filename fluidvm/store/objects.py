"""Objects in their tables, and their changes in the change log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, select, text, update
from sqlalchemy import Update as SqlUpdate

from fluidvm.model.object_fields import fields_of
from fluidvm.model.objects import OBJECT_TYPES, Object
from fluidvm.store import schema
from fluidvm.store.end_of_transaction import insert_at_end

TABLES = schema.objects


class ChangeRow(NamedTuple):
    """One line of the change log. Visible to administrators and to C{owner}; C{None}: to everyone."""

    serial: int
    type: str
    id: int
    change: str
    owner: int | None


@dataclass(frozen=True, slots=True)
class Create:
    """A new object. C{extra}: columns that are not fields of the object, such as the hash of a password."""

    object: Object
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """New values for some fields of an object. Increments its version. Ignored if the object is gone."""

    type: str
    id: int
    fields: Mapping[str, Any]
    extra: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.type == "vm" and self.fields.get("state", "unknown") != "unknown":
            assert "powered" in self.fields, "vm_state gives the fields that go with a VM's state"


@dataclass(frozen=True, slots=True)
class Touch:
    """
    Something that belongs to an object has changed, such as a VM's disk, but no field of the object.

    Its version is one higher, and the change log has a line, as after an L{Update}.
    """

    type: str
    id: int


@dataclass(frozen=True, slots=True)
class Delete:
    """The removal of an object."""

    type: str
    id: int


@dataclass(frozen=True, slots=True)
class Mention:
    """A change of something with separate tables, such as an execution context."""

    type: str
    id: int
    change: str
    owner: int | None


Change = Create | Update | Touch | Delete | Mention


def write(connection: Connection, changes: Sequence[tuple[Change, int | None]]) -> list[ChangeRow]:
    """
    Store changes and log them.

    @param changes: each with the owner of its object, for the log.
    @return: the new lines of the log; none for changes of objects that were gone.
    """
    rows: list[tuple[str, int, str, int | None]] = []
    for change, owner in changes:
        if isinstance(change, Create):
            thing = change.object
            _insert(connection, thing, change.extra or {})
            row = (thing.TYPE, thing.id, "created", owner)
        elif isinstance(change, Update):
            columns = _columns(change.type, change.fields) | dict(change.extra or {})
            statement = _update(change.type, tuple(columns))
            if not connection.execute(statement, {**columns, "of_id": change.id}).rowcount:
                continue
            row = (change.type, change.id, "updated", owner)
        elif isinstance(change, Touch):
            if not connection.execute(_update(change.type, ()), {"of_id": change.id}).rowcount:
                continue
            row = (change.type, change.id, "updated", owner)
        elif isinstance(change, Delete):
            table = TABLES[change.type]
            if not connection.execute(delete(table).where(table.c.id == change.id)).rowcount:
                continue
            row = (change.type, change.id, "deleted", owner)
        else:
            row = (change.type, change.id, change.change, change.owner)
        rows.append(row)
    if not rows:
        return []
    logged = [ChangeRow(serial, *row) for serial, row in zip(_serials(connection, len(rows)), rows, strict=True)]
    insert_at_end(connection, _LOG, [row._asdict() for row in logged])
    return logged


_LOG = insert(schema.changes)


def _serials(connection: Connection, count: int) -> Iterable[int]:
    """Take the next serials of the change log."""
    if connection.dialect.name != "sqlite":
        sequence = "SELECT nextval(pg_get_serial_sequence('changes', 'serial')) FROM generate_series(1, :count)"
        return connection.execute(text(sequence), {"count": count}).scalars().all()
    # SQLite has one writer: this connection, which reads the serial once. A rolled back transaction leaves a gap.
    last: int | None = connection.info.get("serial")
    if last is None:
        last = connection.execute(select(func.max(schema.changes.c.serial))).scalar() or 0
        known = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")).scalar()
        last = max(last, known or 0)
    connection.info["serial"] = last + count
    return range(last + 1, last + count + 1)


# Built once per set of columns: building a statement costs more than running it.
@cache
def _update(type_name: str, columns: tuple[str, ...]) -> SqlUpdate:
    table = TABLES[type_name]
    values: dict[str, Any] = {name: bindparam(name) for name in columns}
    values["version"] = literal_column("version + 1")
    return update(table).where(table.c.id == bindparam("of_id")).values(values)


# Fields that are meaningful only while the server runs.
_NOT_STORED = {
    type_name: frozenset(field.name for field in fields_of(cls) if not field.form.stored)
    for type_name, cls in OBJECT_TYPES.items()
}


def _columns(type_name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    left_out = _NOT_STORED[type_name]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if key not in left_out}


def _insert(connection: Connection, thing: Object, extra: Mapping[str, Any]) -> None:
    values = {field.name: getattr(thing, field.name) for field in fields_of(type(thing))}
    connection.execute(insert(TABLES[thing.TYPE]), _columns(thing.TYPE, values) | dict(extra))


def load(connection: Connection) -> Iterable[Object]:
    """Read every object. Objects come after those that they refer to."""
    for type_name, cls in OBJECT_TYPES.items():
        names = {field.name for field in fields_of(cls)}
        for row in connection.execute(select(TABLES[type_name]).order_by("id")).mappings():
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if key in names
            }
            yield cls(**values)


def load_changes(connection: Connection, most: int) -> list[ChangeRow]:
    """Read the newest C{most} lines of the change log, oldest first, and delete those before them."""
    forget_changes(connection, most)
    rows = connection.execute(select(schema.changes).order_by(schema.changes.c.serial))
    return [ChangeRow(*row) for row in rows]


def forget_changes(connection: Connection, most: int) -> None:
    """Delete all but the newest C{most} lines of the change log."""
    newest = connection.execute(select(func.max(schema.changes.c.serial))).scalar() or 0
    connection.execute(delete(schema.changes).where(schema.changes.c.serial <= newest - most))


def load_counters(connection: Connection) -> dict[str, int]:
    """Read the highest stored id per type."""
    return {row.type: row.last for row in connection.execute(select(schema.id_counters))}


def save_counters(connection: Connection, counters: Mapping[str, int]) -> None:
    """Store that ids up to these are taken."""
    table = schema.id_counters
    for type_name, last in counters.items():
        if not connection.execute(_RAISE, {"of_type": type_name, "last": last}).rowcount:
            known = connection.execute(select(table.c.last).where(table.c.type == type_name)).scalar()
            if known is None:
                connection.execute(insert(table), {"type": type_name, "last": last})


_RAISE = (
    update(schema.id_counters)
    .where(schema.id_counters.c.type == bindparam("of_type"), schema.id_counters.c.last < bindparam("last"))
    .values(last=bindparam("last"))
)
