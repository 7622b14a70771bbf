"""PostgreSQL refuses changes of audit lines, as SQLite has done from the start."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the trigger that PostgreSQL's databases lack."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()"
        )
