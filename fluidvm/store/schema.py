"""
The tables as queries name them. Types and constraints are the migrations' matter, but what is a BigInteger there is one
here, too: PostgreSQL is told with each value which it is.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, MetaData, String, Table

metadata = MetaData()

users = Table(
    "users", metadata,
    Column("id", Integer, primary_key=True), Column("name", String), Column("role", String), Column("enabled", Boolean),
    Column("full_name", String), Column("email", String), Column("created", Float), Column("last_login", Float),
    Column("password_hash", String), Column("resource_plan", Integer), Column("second_factor", Boolean),
    Column("totp_secret", String), Column("totp_last", Integer),
)  # fmt: skip

resource_plans = Table(
    "resource_plans", metadata,
    Column("id", Integer, primary_key=True), Column("name", String), Column("limits", JSON), Column("created", Float),
)  # fmt: skip

known_addresses = Table(
    "known_addresses", metadata,
    Column("user", Integer, primary_key=True), Column("address", String, primary_key=True), Column("last", Float),
)  # fmt: skip

compute_nodes = Table(
    "compute_nodes", metadata,
    Column("id", Integer, primary_key=True), Column("name", String), Column("driver", String), Column("address", String),
    Column("mode", String), Column("labels", JSON), Column("options", JSON), Column("vcpus", Integer),
    Column("memory", Integer), Column("driver_version", String), Column("hypervisor_version", String),
    Column("created", Float),
)  # fmt: skip

vms = Table(
    "vms", metadata,
    Column("id", Integer, primary_key=True), Column("name", String), Column("owner", Integer), Column("state", String),
    Column("uuid", String), Column("compute_node", Integer), Column("driver", String), Column("vcpus", Integer),
    Column("max_vcpus", Integer), Column("memory", Integer), Column("max_memory", Integer), Column("interfaces", JSON),
    Column("description", String), Column("tags", JSON), Column("autostart", Boolean), Column("boot", JSON),
    Column("created", Float), Column("powered", Boolean), Column("domain", String),
    Column("shares", JSON), Column("template", String), Column("snapshots", JSON),
)  # fmt: skip

disks = Table(
    "disks", metadata,
    Column("id", Integer, primary_key=True), Column("name", String), Column("owner", Integer), Column("state", String),
    Column("size", Integer), Column("format", String), Column("compute_node", Integer), Column("pool", String),
    Column("volume", String), Column("path", String), Column("vm", Integer), Column("target", String),
    Column("created", Float), Column("snapshots", JSON), Column("image", Integer),
)  # fmt: skip

images = Table(
    "images", metadata,
    Column("id", Integer, primary_key=True), Column("name", String), Column("owner", Integer), Column("public", Boolean),
    Column("size", Integer), Column("format", String), Column("sha256", String), Column("state", String),
    Column("space", Integer), Column("created", Float),
)  # fmt: skip

uploads = Table(
    "uploads", metadata,
    Column("user", Integer, primary_key=True), Column("name", String, primary_key=True), Column("size", BigInteger),
    Column("touched", Float), Column("image", Integer),
)  # fmt: skip

contexts = Table(
    "contexts", metadata,
    Column("id", Integer, primary_key=True), Column("owner", Integer), Column("on_error", String),
    Column("created", Float), Column("started", Float), Column("finished", Float),
)  # fmt: skip

tasks = Table(
    "tasks", metadata,
    Column("context", Integer, primary_key=True), Column("position", Integer, primary_key=True), Column("method", String),
    Column("target_type", String), Column("target", Integer), Column("arguments", JSON), Column("claims", JSON),
    Column("started", Float),
    Column("finished", Float), Column("code", Integer), Column("error", String), Column("result", JSON),
    Column("memo", JSON), Column("progress", Integer),
)  # fmt: skip

changes = Table(
    "changes", metadata,
    Column("serial", BigInteger, primary_key=True), Column("type", String), Column("id", Integer), Column("change", String),
    Column("owner", Integer),
)  # fmt: skip

id_counters = Table("id_counters", metadata, Column("type", String, primary_key=True), Column("last", Integer))

audit = Table(
    "audit", metadata,
    Column("id", BigInteger, primary_key=True), Column("time", Float), Column("event", String), Column("user", Integer),
    Column("name", String), Column("address", String), Column("method", String), Column("target_type", String),
    Column("target", Integer), Column("execution_context", Integer), Column("task", Integer), Column("code", Integer),
    Column("arguments", String), Column("error", String),
)  # fmt: skip

standing = Table(
    "standing", metadata,
    Column("id", Integer, primary_key=True), Column("identity", String), Column("term", String), Column("last", BigInteger),
)  # fmt: skip
