"""
The tables for queries. A column of an object's table follows from its field in L{fluidvm.model.objects}; the columns of
other tables are here. A new column also needs a migration. The migrations define types and constraints. But a column that
is a BigInteger there must be one here, too, because each value is sent to PostgreSQL with its type.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, MetaData, String, Table
from sqlalchemy.types import TypeEngine

from fluidvm.model.object_fields import fields_of
from fluidvm.model.objects import OBJECT_TYPES

metadata = MetaData()

_TYPES: dict[type, type[TypeEngine[Any]]] = {int: Integer, float: Float, str: String, bool: Boolean, list: JSON, dict: JSON}
# Columns that are not fields of objects.
_MORE = {
    "user": (Column("password_hash", String), Column("totp_secret", String), Column("totp_last", Integer)),
}


def _table(type_name: str, cls: type) -> Table:
    columns = [
        Column(field.name, BigInteger if field.form.wide else _TYPES[field.type], primary_key=field.name == "id")
        for field in fields_of(cls)
        if field.form.stored
    ]
    return Table(f"{type_name}s", metadata, *columns, *_MORE.get(type_name, ()))


objects = {type_name: _table(type_name, cls) for type_name, cls in OBJECT_TYPES.items()}
"""The table of each type of object. Its columns are derived from the fields of the class."""
users = objects["user"]

known_addresses = Table(
    "known_addresses",
    metadata,
    Column("user", Integer, primary_key=True),
    Column("address", String, primary_key=True),
    Column("last", Float),
)

uploads = Table(
    "uploads",
    metadata,
    Column("user", Integer, primary_key=True),
    Column("name", String, primary_key=True),
    Column("size", BigInteger),
    Column("touched", Float),
    Column("image", Integer),
)

contexts = Table(
    "contexts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", Integer),
    Column("on_error", String),
    Column("created", Float),
    Column("started", Float),
    Column("finished", Float),
)

tasks = Table(
    "tasks",
    metadata,
    Column("context", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("method", String),
    Column("target_type", String),
    Column("target", Integer),
    Column("arguments", JSON),
    Column("claims", JSON),
    Column("started", Float),
    Column("finished", Float),
    Column("code", Integer),
    Column("error", String),
    Column("result", JSON),
    Column("memo", JSON),
    Column("progress", Integer),
)

changes = Table(
    "changes",
    metadata,
    Column("serial", BigInteger, primary_key=True),
    Column("type", String),
    Column("id", Integer),
    Column("change", String),
    Column("owner", Integer),
)

id_counters = Table("id_counters", metadata, Column("type", String, primary_key=True), Column("last", Integer))

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("time", Float),
    Column("event", String),
    Column("user", Integer),
    Column("name", String),
    Column("address", String),
    Column("method", String),
    Column("target_type", String),
    Column("target", Integer),
    Column("execution_context", Integer),
    Column("task", Integer),
    Column("code", Integer),
    Column("arguments", String),
    Column("error", String),
)

standing = Table(
    "standing",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("identity", String),
    Column("term", String),
    Column("last", BigInteger),
)
