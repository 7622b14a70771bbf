"""Disks know their own snapshots."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column."""
    op.add_column("disks", sa.Column("snapshots", sa.JSON, nullable=False, server_default="[]"))
