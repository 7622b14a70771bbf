"""The tables that the code derives are the same as those of the migrations."""

from __future__ import annotations

from sqlalchemy import Connection, inspect, select

from fluidvm.store import schema
from tests.databases import execute

from .case import DatabaseCase


class SchemaTests(DatabaseCase):
    async def test_each_column_has_a_migration(self) -> None:
        """This includes objects, whose columns are derived from their classes."""

        def columns(connection: Connection) -> dict[str, set[str]]:
            seen = inspect(connection)
            return {
                name: {column["name"] for column in seen.get_columns(name)}
                for name in seen.get_table_names()
                if name != "alembic_version"
            }

        known = {name: {column.name for column in table.c} for name, table in schema.metadata.tables.items()}
        self.assertEqual(await self.database.run(columns), known)

    async def test_existing_objects_get_a_version(self) -> None:
        await self.database.close()
        for name in schema.objects:
            self.execute(f"ALTER TABLE {name}s DROP COLUMN version")
        self.execute("UPDATE alembic_version SET version_num = '0012'")
        self.execute("INSERT INTO resource_plans (id, name, limits, created) VALUES (1, 'small', '{}', 0)")
        self.database = self.make()
        self.database.open()
        plans = schema.objects["resource_plan"]

        def versions(connection: Connection) -> list[int]:
            return list(connection.execute(select(plans.c.version)).scalars())

        self.assertEqual(await self.database.run(versions), [1])

    def execute(self, statement: str) -> None:
        execute(self.url, statement)
