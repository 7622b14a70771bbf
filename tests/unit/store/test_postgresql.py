"""Tests for PostgreSQL only."""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, text
from twisted.trial.unittest import TestCase

from fluidvm.store import connecting, schema
from fluidvm.store.database import DatabaseError
from tests.databases import only
from tests.postgres import Cluster

from .case import DatabaseCase, database_at, names, put


class ClaimTests(DatabaseCase):
    skip = only("postgresql")

    async def test_one_server_at_a_time(self) -> None:
        refused = self.assertRaises(DatabaseError, self.make().open)
        self.assertIn("another server uses it", str(refused))
        await self.database.close()
        self.database = self.make()
        self.database.open()

    def test_a_lock_that_is_freed_a_little_later(self) -> None:
        """PostgreSQL frees the lock of a server once it has noticed that the server has ended."""
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            self.database.close()

        self.patch(connecting, "sleep", pause)
        after = self.make()
        self.addCleanup(after.close)
        after.open()
        self.assertTrue(pauses)


class TypeTests(DatabaseCase):
    skip = only("postgresql")

    async def test_queries_know_which_columns_are_wide(self) -> None:
        def wide(connection: Connection) -> set[tuple[str, str]]:
            found = connection.execute(
                text(
                    "SELECT table_name, column_name FROM information_schema.columns"
                    " WHERE table_schema = 'public' AND data_type = 'bigint'"
                )
            )
            return {(row.table_name, row.column_name) for row in found}

        known = {
            (table.name, column.name)
            for table in schema.metadata.tables.values()
            for column in table.c
            if isinstance(column.type, BigInteger)
        }
        self.assertEqual(await self.database.run(wide), known)


class CrashTests(TestCase):
    skip = only("postgresql")

    async def test_confirmed_commits_survive_a_crash(self) -> None:
        cluster = Cluster(fsync="on", full_page_writes="on")
        self.addCleanup(cluster.remove)
        cluster.start()
        url = cluster.url(cluster.create_database())
        database = database_at(url)
        database.open()
        for number in range(20):
            await database.run(put, f"{number:04}")
        cluster.kill()
        await database.close()
        cluster.start()
        database = database_at(url)
        database.open()
        self.addCleanup(database.close)
        self.assertEqual(await database.run(names), [f"{number:04}" for number in range(20)])
