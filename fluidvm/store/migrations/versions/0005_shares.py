"""VMs know what shares and rates they are held to."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    op.add_column("vms", sa.Column("shares", sa.JSON, nullable=False, server_default="{}"))
