"""What is PostgreSQL's alone."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

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


class CrashTests(TestCase):
    skip = only("postgresql")

    async def test_what_was_answered_is_there_after_a_crash(self) -> None:
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
