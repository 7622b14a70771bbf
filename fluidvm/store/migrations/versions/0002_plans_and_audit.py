"""Resource plans, second factors, addresses that users come from, the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "resource_plans",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(63), nullable=False, unique=True),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    # As text: Alembic would add the reference by a statement that SQLite hasn't.
    op.execute("ALTER TABLE users ADD COLUMN resource_plan INTEGER REFERENCES resource_plans (id)")
    op.add_column("users", sa.Column("second_factor", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("users", sa.Column("totp_secret", sa.Text, nullable=False, server_default=""))
    op.add_column("users", sa.Column("totp_last", sa.Integer, nullable=False, server_default="0"))
    op.add_column("vms", sa.Column("powered", sa.Boolean, nullable=False, server_default=sa.false()))
    vms = sa.table("vms", sa.column("state", sa.String), sa.column("powered", sa.Boolean))
    op.execute(vms.update().where(vms.c.state.not_in(("creating", "stopped", "crashed", "missing"))).values(powered=True))
    op.create_table(
        "known_addresses",
        sa.Column("user", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("address", sa.String(64), primary_key=True),
        sa.Column("last", sa.Float, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("time", sa.Float, nullable=False, index=True),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("user", sa.Integer),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("method", sa.String(63), nullable=False),
        sa.Column("target_type", sa.String(32), nullable=False),
        sa.Column("target", sa.Integer),
        sa.Column("execution_context", sa.Integer),
        sa.Column("task", sa.Integer),
        sa.Column("code", sa.Integer, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
