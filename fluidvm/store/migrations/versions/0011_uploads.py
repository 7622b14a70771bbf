"""What was uploaded and isn't an image yet."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the table. The user may be gone before its uploads are."""
    op.create_table(
        "uploads",
        sa.Column("user", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("touched", sa.Float, nullable=False),
        sa.Column("image", sa.Integer),
    )
