"""PostgreSQL stops, hangs, is killed, loses its answers: the store goes on when it is back, and knows what was kept."""

from __future__ import annotations

from typing import Any, ClassVar

import psycopg
from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred

from fluidvm.model.faults import Unavailable
from fluidvm.store.database import CLOSING, SLOW, DatabaseError, OutcomeUnknown
from tests.postgres import Cluster, shared_cluster
from tests.unit.store.case import names, put
from tests.unit.store.support import LIMIT, StoreCase

HOLD = 4711


class PostgresCase(StoreCase):
    """Tests with a database of their own."""

    def setUp(self) -> None:
        super().setUp()
        self.cluster = self.make_cluster()
        self.name = self.cluster.create_database()
        self.url = self.cluster.url(self.name)
        self.database = self.open(self.url)

    def make_cluster(self) -> Cluster:
        """The cluster."""
        return shared_cluster()

    async def tearDown(self) -> None:  # type: ignore[override]
        self.cluster.start()
        self.cluster.resume()
        await super().tearDown()

    async def run_well(self, name: str) -> None:
        """Check that the store works, and nobody hangs."""
        self.assertEqual(await self.database.run(put, name), name)
        self.assertEqual(self.database.reasons(), [])

    def end_backend(self) -> None:
        """End the store's connection, as an administrator does."""
        self.cluster.execute(f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{self.name}'")

    def ask(self, query: str, database: str = "postgres") -> list[Any]:
        """What a query finds."""
        with psycopg.connect(self.cluster.url(database), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def hanging(self, query: str) -> str:
        """A statement that finds the store's connection in a state."""
        return f"SELECT 1 FROM pg_stat_activity WHERE datname = '{self.name}' AND {query}"


class AwayTests(PostgresCase):
    async def test_away_for_one_commit(self) -> None:
        await self.run_well("before")
        self.cluster.stop()
        refused = await self.assertFailure(self.database.run(put, "while away"), Unavailable)
        self.assertNotIn("\n", str(refused))
        self.assertTrue(self.database.reasons())
        self.cluster.start()
        await self.run_well("after")
        self.assertEqual(await self.database.run(names), ["after", "before"])

    async def test_health_is_well_again_though_nobody_asks_for_anything(self) -> None:
        self.cluster.stop()
        await self.assertFailure(self.database.run(put, "while away"), Unavailable)
        self.cluster.start()
        await self.in_time(lambda: not self.database.reasons())

    async def test_a_restart_between_two_commits_refuses_nothing(self) -> None:
        await self.run_well("before")
        self.cluster.stop()
        self.cluster.start()
        await self.run_well("after")
        self.cluster.kill()
        self.cluster.start()
        await self.run_well("after a crash")
        self.end_backend()
        await self.run_well("after it was ended")

    async def test_what_it_refuses_for_reasons_of_its_own_ends_no_thread(self) -> None:
        def slowly(connection: Connection) -> None:
            put(connection, "slowly")
            connection.execute(text("SET LOCAL statement_timeout = 50"))
            connection.execute(text("SELECT pg_sleep(60)"))

        def rudely(connection: Connection) -> None:
            raise SystemExit

        await self.assertFailure(self.database.run(slowly), Unavailable)
        await self.run_well("after")
        await self.assertFailure(self.database.run(rudely), Unavailable)
        await self.run_well("after that")
        self.assertEqual(await self.database.run(names), ["after", "after that"])
        self.flushLoggedErrors(SystemExit)

    async def test_statements_and_locks_are_bounded_by_the_server_too(self) -> None:
        def settings(connection: Connection) -> list[str]:
            asked = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
            return [connection.execute(text(f"SHOW {name}")).scalar_one() for name in asked]

        self.assertEqual(await self.database.run(settings), ["20s", "10s", "40s"])
        self.end_backend()
        self.assertEqual(await self.database.run(settings), ["20s", "10s", "40s"])

    async def test_several_hosts(self) -> None:
        """As libpq does, the first one that answers is used."""
        await self.database.close()
        for url in (
            f"postgresql://fluidvm@/{self.name}?host={self.cluster.directory}/nobody&host={self.cluster.directory}",
            f"postgresql://fluidvm@/{self.name}?host=/nobody,{self.cluster.directory}&port=1,5432",
        ):
            self.database = self.open(url)
            self.end_backend()
            await self.run_well(str(len(url)))
            await self.database.close()


class HangTests(PostgresCase):
    async def test_hanging_is_bounded_and_passes(self) -> None:
        await self.run_well("before")
        self.cluster.suspend()
        hanging = self.outcome(self.database.run(put, "hangs"))
        await self.turn(SLOW + 1)
        self.assertIn("6 s", self.database.reasons()[0])
        self.assertGreater(self.database.waits(), SLOW)
        self.assertEqual(hanging, [])
        await self.overdue()
        self.assertIsInstance(hanging[0].value, Unavailable)
        self.assertNotIsInstance(hanging[0].value, OutcomeUnknown)
        self.assertTrue(self.database.reasons())
        self.cluster.resume()
        await self.in_time(lambda: not self.database.reasons())
        await self.run_well("after")
        self.assertEqual(await self.database.run(names), ["after", "before"])

    async def test_what_waits_behind_it_is_bounded_too(self) -> None:
        self.cluster.suspend()
        first = self.outcome(self.database.run(put, "first"))
        await self.until(lambda: self.database._writer.busy(LIMIT))  # type: ignore[union-attr]
        await self.turn(LIMIT / 2)
        second = self.outcome(self.database.run(put, "second"))
        await self.turn(LIMIT / 2 + 1)
        await self.until(lambda: first)
        self.assertIsInstance(first[0].value, Unavailable)
        self.assertEqual(second, [])
        await self.overdue()
        self.assertIsInstance(second[0].value, Unavailable)
        self.cluster.resume()
        await self.in_time(lambda: not self.database.reasons())
        self.assertEqual(await self.database.run(names), [])

    async def test_closing_is_bounded(self) -> None:
        self.cluster.suspend()
        hanging = self.outcome(self.database.run(put, "hangs"))
        closed = self.outcome(self.database.close())
        await self.turn(CLOSING + 1)
        self.assertEqual(closed, [None])
        self.assertIsInstance(hanging[0].value, Unavailable)

    async def test_few_threads_are_left_behind(self) -> None:
        self.cluster.suspend()
        for _ in range(12):
            self.database.run(put, "hangs").addErrback(lambda failure: None)
            await self.overdue()
        self.assertLess(len(self.database._given_up), 10)


class LostAnswerTests(PostgresCase):
    """The commit is kept or not, and the connection ends before the store hears of it."""

    cluster_of_all: ClassVar[Cluster | None] = None

    def make_cluster(self) -> Cluster:
        if self.cluster_of_all is None:
            # A standby that never comes: a commit that waits for it is kept already.
            made = Cluster(
                wal_level="replica", max_wal_senders=2, synchronous_standby_names="nobody", synchronous_commit="off"
            )
            type(self).cluster_of_all = made
            made.start()
        assert self.cluster_of_all is not None
        return self.cluster_of_all

    @classmethod
    def tearDownClass(cls) -> None:
        if cls.cluster_of_all is not None:
            cls.cluster_of_all.remove()
            cls.cluster_of_all = None

    def setUp(self) -> None:
        super().setUp()
        self.cluster.execute("CHECKPOINT")  # what it kept until now survives being killed
        self.calls = 0

    def kept(self, connection: Connection) -> str:
        """Write something whose commit is kept, and not answered."""
        self.calls += 1
        connection.execute(text("SET LOCAL synchronous_commit = on"))
        return put(connection, "in doubt")

    def not_kept(self, connection: Connection) -> str:
        """Write something whose commit hangs before it is kept, the first time."""
        self.calls += 1
        if self.calls == 1:
            for statement in (
                "CREATE FUNCTION hold() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(600); RETURN NULL; END' LANGUAGE plpgsql",
                "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON id_counters DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION hold()",
            ):
                connection.execute(text(statement))
        return put(connection, "in doubt")

    async def begin(self, function: Any, state: str) -> list[Any]:
        """Begin a commit, and wait until it hangs."""
        found = self.outcome(self.database.run(function))
        await self.until(lambda: self.ask(self.hanging(state)))
        return found

    async def begin_kept(self) -> list[Any]:
        return await self.begin(self.kept, "wait_event = 'SyncRep'")

    async def begin_not_kept(self) -> list[Any]:
        return await self.begin(self.not_kept, "query = 'COMMIT' AND wait_event = 'PgSleep'")

    async def test_one_that_was_kept_is_not_done_twice(self) -> None:
        found = await self.begin_kept()
        self.end_backend()
        await self.until(lambda: found)
        self.assertEqual((found, self.calls), (["in doubt"], 1))
        self.assertEqual(await self.database.run(names), ["in doubt"])

    async def test_one_that_was_not_kept_is_done_again(self) -> None:
        found = await self.begin_not_kept()
        self.end_backend()
        await self.until(lambda: found)
        self.assertEqual((found, self.calls), (["in doubt"], 2))
        self.assertEqual(await self.database.run(names), ["in doubt"])

    async def unknown(self, found: list[Any]) -> list[Any]:
        """Check that the outcome isn't known; gives it, once it is."""
        self.assertIsInstance(found[0].value, OutcomeUnknown)
        outcome = self.outcome(found[0].value.outcome)
        await self.turn()
        self.assertEqual(outcome, [])
        self.assertTrue(self.database.reasons())
        return outcome

    async def test_kept_and_then_killed(self) -> None:
        found = await self.begin_kept()
        self.cluster.kill()
        await self.until(lambda: found)
        outcome = await self.unknown(found)
        refused = await self.assertFailure(self.database.run(put, "later"), Unavailable)
        self.assertNotIsInstance(refused, OutcomeUnknown)
        self.cluster.start()
        await self.in_time(lambda: outcome)
        self.assertEqual((outcome, self.calls), (["in doubt"], 1))
        self.assertEqual(await self.database.run(names), ["in doubt"])

    async def test_not_kept_and_then_killed(self) -> None:
        found = await self.begin_not_kept()
        self.cluster.kill()
        await self.until(lambda: found)
        outcome = await self.unknown(found)
        self.cluster.start()
        await self.in_time(lambda: outcome)
        self.assertIsInstance(outcome[0].value, Unavailable)
        self.assertNotIsInstance(outcome[0].value, OutcomeUnknown)
        self.assertEqual(self.calls, 1)
        self.assertEqual(await self.database.run(names), [])

    async def test_kept_and_hanging(self) -> None:
        """The old connection still waits when the new one comes, and holds the lock: it is ended."""
        found = await self.begin_kept()
        await self.overdue()
        outcome = self.outcome(found[0].value.outcome)
        await self.in_time(lambda: outcome)
        self.assertEqual((outcome, self.calls), (["in doubt"], 1))

    async def test_not_kept_and_hanging(self) -> None:
        found = await self.begin_not_kept()
        self.cluster.suspend()
        await self.overdue()
        outcome = await self.unknown(found)
        self.cluster.resume()
        await self.in_time(lambda: outcome)
        self.assertIsInstance(outcome[0].value, Unavailable)
        self.assertEqual(await self.database.run(names), [])


class TakenOverTests(PostgresCase):
    async def refused(self, done: Deferred[Any]) -> None:
        words = str(await self.assertFailure(done, Unavailable))
        self.assertIn("stops", words)

    def contents(self) -> list[Any]:
        return self.ask("SELECT type FROM id_counters ORDER BY type", database=self.name)

    async def test_the_lock_is_taken_again_though_nobody_asks_for_anything(self) -> None:
        self.cluster.stop()
        self.cluster.start()
        await self.idle()
        refused = self.assertRaises(DatabaseError, self.make(self.url).open)
        self.assertIn("another server uses it", str(refused))
        self.assertEqual(self.displaced, [])

    async def test_nothing_is_written_once_another_server_has_begun(self) -> None:
        await self.run_well("before")
        self.end_backend()
        other = self.open(self.url)
        await self.refused(self.database.run(put, "no more"))
        self.assertEqual(len(self.displaced), 1)
        self.assertIn("another server", self.displaced[0])
        await self.refused(self.database.run(put, "no more"))
        self.assertEqual(await other.run(names), ["before"])

    async def test_nor_if_it_has_ended_since(self) -> None:
        self.end_backend()
        other = self.open(self.url)
        await other.run(put, "the other's")
        await other.close()
        await self.refused(self.database.run(put, "no more"))
        self.assertEqual(self.contents(), [("the other's",)])

    async def test_it_is_noticed_though_nobody_asks_for_anything(self) -> None:
        self.end_backend()
        self.open(self.url)
        await self.idle()
        self.assertEqual(len(self.displaced), 1)
        self.assertTrue(self.database.reasons())

    async def test_a_term_of_another_server_is_noticed_on_a_connection_that_goes_on(self) -> None:
        self.cluster.execute("UPDATE standing SET term = 'another'", database=self.name)
        await self.refused(self.database.run(put, "no more"))
        self.assertEqual(self.contents(), [])
        self.assertEqual(len(self.displaced), 1)

    async def test_a_database_that_went_back_is_noticed(self) -> None:
        """As a standby does that hadn't heard of the last transactions, or a backup."""
        await self.run_well("one")
        await self.run_well("two")
        self.cluster.execute(
            "DELETE FROM id_counters WHERE type = 'two'", "UPDATE standing SET last = 1", database=self.name
        )
        self.end_backend()
        await self.refused(self.database.run(put, "no more"))
        self.assertIn("lost committed transactions", self.displaced[0])
        self.assertEqual(self.contents(), [("one",)])

    async def test_one_that_can_only_be_read_is_waited_for(self) -> None:
        self.cluster.execute(f"ALTER DATABASE {self.name} SET default_transaction_read_only = on")
        self.end_backend()
        refused = await self.assertFailure(self.database.run(put, "no"), Unavailable)
        self.assertIn("read-only", str(refused))
        self.cluster.execute(f"ALTER DATABASE {self.name} RESET default_transaction_read_only")
        await self.run_well("after")
