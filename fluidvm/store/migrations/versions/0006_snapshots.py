"""VMs know their snapshots."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    op.add_column("vms", sa.Column("snapshots", sa.JSON, nullable=False, server_default="[]"))
