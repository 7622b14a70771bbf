"""The schema's numbered steps, run by Alembic at start."""
