"""Users, compute nodes, VMs, disks, execution contexts, the change log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(63), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("full_name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("last_login", sa.Float),
        sa.Column("password_hash", sa.Text, nullable=False),
    )
    op.create_table(
        "compute_nodes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(63), nullable=False, unique=True),
        sa.Column("driver", sa.String(63), nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("vcpus", sa.Integer, nullable=False),
        sa.Column("memory", sa.Integer, nullable=False),
        sa.Column("driver_version", sa.Text, nullable=False),
        sa.Column("hypervisor_version", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "vms",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("owner", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("uuid", sa.String(36), nullable=False, unique=True),
        sa.Column("compute_node", sa.Integer, sa.ForeignKey("compute_nodes.id"), nullable=False),
        sa.Column("driver", sa.String(63), nullable=False),
        sa.Column("vcpus", sa.Integer, nullable=False),
        sa.Column("max_vcpus", sa.Integer, nullable=False),
        sa.Column("memory", sa.Integer, nullable=False),
        sa.Column("max_memory", sa.Integer, nullable=False),
        sa.Column("interfaces", sa.JSON, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("autostart", sa.Boolean, nullable=False),
        sa.Column("boot", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.UniqueConstraint("owner", "name", name="vm_name_per_owner"),
    )
    op.create_table(
        "disks",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("owner", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("compute_node", sa.Integer, sa.ForeignKey("compute_nodes.id"), nullable=False),
        sa.Column("pool", sa.String(63), nullable=False),
        sa.Column("volume", sa.String(127), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("vm", sa.Integer, sa.ForeignKey("vms.id")),
        sa.Column("target", sa.String(16)),
        sa.Column("created", sa.Float, nullable=False),
        sa.UniqueConstraint("owner", "name", name="disk_name_per_owner"),
        sa.UniqueConstraint("vm", "target", name="disk_target_per_vm"),
    )
    op.create_table(
        "contexts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.Integer, nullable=False, index=True),
        sa.Column("on_error", sa.String(16), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("finished", sa.Float, index=True),
    )
    op.create_table(
        "tasks",
        sa.Column("context", sa.Integer, sa.ForeignKey("contexts.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("method", sa.String(63), nullable=False),
        sa.Column("target_type", sa.String(32), nullable=False),
        sa.Column("target", sa.Integer, nullable=False),
        sa.Column("arguments", sa.JSON, nullable=False),
        sa.Column("claims", sa.JSON, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("finished", sa.Float),
        sa.Column("code", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("memo", sa.JSON, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("serial", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("change", sa.String(8), nullable=False),
        sa.Column("owner", sa.Integer),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "id_counters",
        sa.Column("type", sa.String(32), primary_key=True),
        sa.Column("last", sa.Integer, nullable=False),
    )
