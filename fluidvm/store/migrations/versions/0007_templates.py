"""VMs know which template they were made of."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column."""
    op.add_column("vms", sa.Column("template", sa.String(127), nullable=False, server_default=""))
