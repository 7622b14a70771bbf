"""VMs can be renamed: the hypervisor's name for them is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("vms", sa.Column("domain", sa.String(127), nullable=False, server_default=""))
