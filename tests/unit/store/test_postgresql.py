"""What is PostgreSQL's alone."""

from __future__ import annotations

from sqlalchemy import Connection, text

from fluidvm.store.database import DatabaseError
from tests.databases import only

from .case import DatabaseCase


class PostgresqlTests(DatabaseCase):
    skip = only("postgresql")

    async def test_one_server_at_a_time(self) -> None:
        refused = self.assertRaises(DatabaseError, self.make().open)
        self.assertIn("another server uses it", str(refused))
        await self.database.close()
        self.database = self.make()
        self.database.open()

    async def test_commits_wait_until_they_are_durable(self) -> None:
        def setting(connection: Connection) -> str:
            return str(connection.execute(text("SHOW synchronous_commit")).scalar())

        self.assertEqual(await self.database.run(setting), "on")
