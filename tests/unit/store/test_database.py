from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.model.faults import Unavailable
from fluidvm.store.database import Database, DatabaseError, parse_url
from tests.databases import execute, only

from .case import DatabaseCase, database_at, names, put

reactor: Any = _reactor


def put_and_fail(connection: Connection, type_name: str) -> None:
    put(connection, type_name)
    raise ValueError(type_name)


class DatabaseTests(DatabaseCase):
    async def test_results_and_errors_in_order(self) -> None:
        order: list[Any] = []
        waiting = []
        for number in range(500):
            function = put_and_fail if number % 7 == 0 else put
            done: Deferred[Any] = self.database.run(function, f"{number:04}")
            waiting.append(done.addBoth(lambda result, number=number: order.append((number, result))))  # type: ignore[call-overload]
        await gatherResults(waiting)
        self.assertEqual([number for number, _ in order], list(range(500)))
        stored = await self.database.run(names)
        self.assertEqual(stored, [f"{number:04}" for number in range(500) if number % 7])
        for number, result in order:
            self.assertEqual(isinstance(result, str), bool(number % 7))

    async def test_a_failing_function_fails_alone(self) -> None:
        good, bad, other = (self.database.run(put, "a"), self.database.run(put_and_fail, "b"), self.database.run(put, "c"))
        await good
        await self.assertFailure(bad, ValueError)
        await other
        self.assertEqual(await self.database.run(names), ["a", "c"])

    async def test_a_violated_constraint_fails_alone(self) -> None:
        first, again, other = (self.database.run(put, name) for name in ("a", "a", "b"))
        await first
        await self.assertFailure(again, Exception)
        await other
        self.assertEqual(await self.database.run(names), ["a", "b"])

    async def test_reopened(self) -> None:
        await self.database.run(put, "a")
        await self.database.close()
        self.database = self.make()
        self.database.open()
        self.assertEqual(await self.database.run(names), ["a"])

    async def test_closing_finishes_earlier_work(self) -> None:
        waiting: list[Deferred[str]] = [self.database.run(put, f"{number:04}") for number in range(1000)]
        await self.database.close()
        self.assertTrue(all(done.called for done in waiting))
        await self.assertFailure(self.database.run(put, "late"), Unavailable)

    async def test_a_newer_database_is_refused(self) -> None:
        await self.database.close()
        execute(self.url, "UPDATE alembic_version SET version_num = '9999'")
        refused = self.assertRaises(DatabaseError, self.make().open)
        self.assertIn("newer", str(refused))
        self.assertIn("9999", str(refused))


class SqliteTests(DatabaseCase):
    """The file of SQLite, and failures that only SQLite has."""

    skip = only("sqlite")

    async def test_durable_settings(self) -> None:
        def pragmas(connection: Connection) -> list[Any]:
            names = ("journal_mode", "synchronous", "foreign_keys")
            return [connection.execute(text(f"PRAGMA {name}")).scalar() for name in names]

        self.assertEqual(await self.database.run(pragmas), ["wal", 2, 1])

    async def test_a_full_disk_is_unavailable_and_passes(self) -> None:
        def shrink(connection: Connection) -> None:
            pages = connection.execute(text("PRAGMA page_count")).scalar()
            connection.execute(text(f"PRAGMA max_page_count={pages}"))

        def grow(connection: Connection) -> None:
            put(connection, "x" * 100_000)

        def widen(connection: Connection) -> None:
            connection.execute(text("PRAGMA max_page_count=1000000"))

        await self.database.run(shrink)
        failed = await self.assertFailure(self.database.run(grow), Unavailable)
        self.assertIn("full", str(failed))
        self.assertIn("full", self.database.trouble)
        await self.database.run(widen)
        await self.database.run(grow)
        self.assertEqual(self.database.trouble, "")

    async def test_a_new_file_is_not_readable_for_others(self) -> None:
        path = self.path.with_name("new.db")
        database = database_at(f"sqlite:///{path}")
        database.open()
        self.addCleanup(database.close)
        await database.run(put, "a")
        found = list(path.parent.glob(path.name + "*"))
        self.assertIn(path, found)
        for path in found:
            self.assertEqual(path.stat().st_mode & 0o077, 0, path.name)

    def test_an_unusable_file(self) -> None:
        self.path.with_name("text").write_text("no database at all, but long enough to be looked at" * 100)
        for url in (f"sqlite:///{self.path.parent}/no/such/dir/x.db", f"sqlite:///{self.path.with_name('text')}"):
            self.assertRaises(DatabaseError, Database(url, reactor).open)


class UrlTests(SynchronousTestCase):
    def test_urls(self) -> None:
        self.assertEqual(parse_url("postgresql://x@y/z").drivername, "postgresql+psycopg")
        for url in ("nonsense", "mysql://x/y", ""):
            self.assertRaises(DatabaseError, parse_url, url)

    def test_urls_of_several_hosts(self) -> None:
        for url, hosts, ports in (
            ("postgresql://u@a:1,b:2/db", "a,b", "1,2"),
            ("postgresql://u:p%40w@a,b:2/db?sslmode=require", "a,b", ",2"),
            ("postgres://[::1]:1,b.example/db", "::1,b.example", "1,"),
            ("postgresql+psycopg://u@/db?host=a:1&host=b:2", "a,b", "1,2"),
            ("postgresql://u@/db?host=a,b&port=1,2&target_session_attrs=read-write", "a,b", "1,2"),
        ):
            parsed = parse_url(url)
            _, options = parsed.get_dialect()().create_connect_args(parsed)
            self.assertEqual((options["host"], options["port"], options["dbname"]), (hosts, ports, "db"), url)
        for url in (
            "postgresql://u@a:x,b:2/db",
            "postgresql://u@a:1:1,b:2/db",
            "postgresql://u@,b:2/db",
            "postgresql://u@h:1,/db",
            "postgresql://u@/db?host=a:x&host=b:1",
            "postgresql://u@a:port/db",
            "postgresql://u@/db?host=a,b&port=1,2,3",
            "postgresql://[::1,b/db",
        ):
            words = str(self.assertRaises(DatabaseError, parse_url, url))
            self.assertNotIn("\n", words)

    def test_passwords_in_urls_are_not_shown(self) -> None:
        database = Database("postgresql://someone:hunter2@127.0.0.1:1/nowhere", reactor)
        refused = self.assertRaises(DatabaseError, database.open)
        self.assertNotIn("hunter2", str(refused))
