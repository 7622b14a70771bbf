"""The store on a real PostgreSQL: these tests exist when FLUIDVM_TEST_DATABASE names an empty one (tables are dropped)."""

from __future__ import annotations

import os

from sqlalchemy import create_engine, text

from fluidvm.store.database import Database, DatabaseError, parse_url
from tests.support import PASSWORD, ServerCase

URL = os.environ.get("FLUIDVM_TEST_DATABASE")

if URL:

    class PostgresqlTests(ServerCase):
        def setUp(self) -> None:
            super().setUp()
            self.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")

        def execute(self, *statements: str) -> None:
            engine = create_engine(parse_url(URL))
            with engine.begin() as connection:
                for statement in statements:
                    connection.execute(text(statement))
            engine.dispose()

        async def test_all_is_there_again(self) -> None:
            running = self.serve("--database", URL)
            admin = await running.login()
            await admin.node()
            vm = await admin.do("create_vm", {"name": "web", "disks": [{"size": 1}], "description": 'émoji \U0001f600 "'})
            await admin.do("create_user", "alice", PASSWORD)
            await admin.do("start_vm", vm)
            await admin.do("create_vm_snapshot", vm, "one")
            before = [
                await admin.call("list_vm_snapshots", vm),
                await admin.call("get_vm", vm),
                await admin.call("get_disk", 1),
                await admin.call("get_user", 2),
            ]
            serial = (await admin.call("get_changes", 0))["serial"]
            await running.stop()
            self.running.remove(running)
            admin = await self.serve("--database", URL).login()
            after = [
                await admin.call("list_vm_snapshots", vm),
                await admin.call("get_vm", vm),
                await admin.call("get_disk", 1),
                await admin.call("get_user", 2),
            ]
            self.assertEqual(before, after)
            self.assertIs((await admin.call("get_changes", serial))["reset"], False)
            await admin.do("stop_vm", vm)
            await admin.do("delete_vm", vm)

        async def test_one_server_at_a_time(self) -> None:
            running = self.serve("--database", URL)
            refused = self.assertRaises(DatabaseError, Database(URL, running.clock).open)
            self.assertIn("another server uses it", str(refused))
            await running.stop()
            self.running.remove(running)
            await self.serve("--database", URL).login()

        async def test_a_newer_database_is_refused(self) -> None:
            running = self.serve("--database", URL)
            self.execute("UPDATE alembic_version SET version_num = '9999'")
            await running.stop()
            self.running.remove(running)
            refused = self.assertRaises(DatabaseError, Database(URL, running.clock).open)
            self.assertIn("newer", str(refused))
