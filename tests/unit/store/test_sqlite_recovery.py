"""SQLite hangs, and its files are deleted or replaced while the server runs."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from threading import Event

from sqlalchemy import Connection, event

from fluidvm.model.faults import Unavailable
from fluidvm.store.database import CLOSING, OutcomeUnknown
from tests.unit.store.case import names, put
from tests.unit.store.support import StoreCase


class SqliteCase(StoreCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = Path(self.mktemp()).absolute()
        self.url = f"sqlite:///{self.path}"
        self.database = self.open(self.url)


class SqliteHangTests(SqliteCase):
    def setUp(self) -> None:
        super().setUp()
        self.reached, self.go_on = Event(), Event()
        self.addCleanup(self.go_on.set)

    def hang(self, connection: Connection) -> str:
        """Write something, and hang."""
        put(connection, "hangs")
        self.wait()
        return "hangs"

    def wait(self) -> None:
        self.reached.set()
        self.go_on.wait(100)

    async def test_hanging_work_is_not_stored_after_it_was_refused(self) -> None:
        hanging = self.outcome(self.database.run(self.hang))
        await self.until(self.reached.is_set)
        await self.overdue()
        self.assertIsInstance(hanging[0].value, Unavailable)
        self.assertNotIsInstance(hanging[0].value, OutcomeUnknown)
        self.assertTrue(self.database.reasons())
        self.go_on.set()
        await self.in_time(lambda: not self.database.reasons())
        await self.database.run(put, "after")
        self.assertEqual(await self.database.run(names), ["after"])

    async def test_the_outcome_of_a_hanging_commit_is_looked_up(self) -> None:
        # Like a slow disk: the thread hangs within COMMIT.
        engine = self.database._source._engine
        event.listen(engine, "commit", lambda connection: self.go_on.is_set() or self.wait())
        hanging = self.outcome(self.database.run(put, "hangs"))
        await self.until(self.reached.is_set)
        await self.overdue()
        self.assertIsInstance(hanging[0].value, OutcomeUnknown)
        outcome = self.outcome(hanging[0].value.outcome)
        self.go_on.set()
        await self.in_time(lambda: outcome)
        self.assertEqual(outcome, ["hangs"])
        self.assertEqual(await self.database.run(names), ["hangs"])

    async def test_closing_has_a_timeout(self) -> None:
        hanging = self.outcome(self.database.run(self.hang))
        await self.until(self.reached.is_set)
        closed = self.outcome(self.database.close())
        await self.turn(CLOSING + 1)
        self.assertEqual(closed, [None])
        self.assertIsInstance(hanging[0].value, Unavailable)


class SqliteFilesTests(SqliteCase):
    async def noticed(self, name: str) -> None:
        """Check that commits are refused, and that health reports it, even without work."""
        await self.idle()
        self.assertIn(f"{name} was deleted or replaced", self.database.reasons()[0])
        refused = await self.assertFailure(self.database.run(put, "lost"), Unavailable)
        self.assertIn(f"{name} was deleted or replaced", str(refused))

    async def test_deleted_and_put_back(self) -> None:
        await self.database.run(put, "before")
        aside = self.path.with_name(self.path.name + ".aside")
        self.path.rename(aside)
        await self.noticed(str(self.path))
        self.assertFalse(self.path.exists(), "nothing makes an empty one")
        aside.rename(self.path)
        await self.in_time(lambda: not self.database.reasons())
        await self.database.run(put, "after")
        self.assertEqual(await self.database.run(names), ["after", "before"])

    async def test_replaced_by_a_copy(self) -> None:
        copy = self.path.with_name("copy")
        shutil.copyfile(self.path, copy)
        copy.replace(self.path)
        await self.noticed(str(self.path))

    async def test_commits_are_refused_at_once(self) -> None:
        self.path.unlink()
        refused = await self.assertFailure(self.database.run(put, "lost"), Unavailable)
        self.assertIn("restore the file", str(refused))

    async def test_the_log_is_deleted(self) -> None:
        await self.database.run(put, "before")
        for suffix in ("-wal", "-shm"):
            with self.subTest(suffix):
                path = self.path.with_name(self.path.name + suffix)
                aside = path.with_name("aside")
                path.rename(aside)
                await self.noticed(str(path))
                aside.rename(path)
                await self.in_time(lambda: not self.database.reasons())

    async def test_an_orderly_stop_saves_what_is_in_a_log_that_was_deleted(self) -> None:
        await self.database.run(put, "before")
        Path(f"{self.path}-wal").unlink()
        await self.noticed(f"{self.path}-wal")
        closed = self.outcome(self.database.close())
        await self.until(lambda: closed)
        self.database = self.open(self.url)
        self.assertEqual(await self.database.run(names), ["before"])

    async def test_other_processes_may_read_and_write(self) -> None:
        """Like C{sqlite3} on a terminal: the log exists before and after."""
        await self.database.run(put, "before")
        with sqlite3.connect(self.path) as other:
            other.execute("INSERT INTO id_counters VALUES ('the other''s', 1)")
        other.close()
        await self.idle()
        self.assertEqual(self.database.reasons(), [])
        self.assertEqual(await self.database.run(names), ["before", "the other's"])
