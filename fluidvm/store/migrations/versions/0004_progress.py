"""A task's progress is kept: it doesn't go down over a restart."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column."""
    op.add_column("tasks", sa.Column("progress", sa.Integer, nullable=False, server_default="0"))
