"""Each object has a version, which grows with each of its changes."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the columns. What is there already begins with 1, as what will be created does."""
    for table in ("resource_plans", "users", "compute_nodes", "vms", "disks", "images"):
        op.add_column(table, sa.Column("version", sa.BigInteger, nullable=False, server_default="1"))
