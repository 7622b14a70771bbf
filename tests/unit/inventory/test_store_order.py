"""What only the store has is read and written in order with the commits of objects."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred, gatherResults

from fluidvm.model.faults import Conflict
from fluidvm.model.objects import User
from fluidvm.store.objects import Touch, Update
from tests.support import ServerCase


def _stored_name(connection: Connection) -> str:
    return str(connection.execute(text("SELECT full_name FROM users WHERE id = 1")).scalar())


def _another_admin(connection: Connection) -> None:
    connection.execute(text("INSERT INTO users (id, name) SELECT 1, name FROM users WHERE id = 1"))


class StoreOrderTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.inventory = self.serve().server.inventory

    async def test_an_answer_comes_after_the_commits_before_it(self) -> None:
        seen: list[tuple[str, str]] = []

        async def look() -> None:
            stored = await self.inventory.read(_stored_name)
            seen.append((stored, self.inventory.get(User, 1).full_name))

        waiting: list[Deferred[Any]] = []
        for name in ("one", "two", "three"):
            waiting.append(self.inventory.commit([Update("user", 1, {"full_name": name})]))
            waiting.append(Deferred.fromCoroutine(look()))
        await gatherResults(waiting)
        self.assertEqual(seen, [("one", "one"), ("two", "two"), ("three", "three")])

    async def test_what_contradicts_the_store_is_a_conflict(self) -> None:
        serial = self.inventory.log.serial
        await self.assertFailure(self.inventory.write(_another_admin), Conflict)
        self.assertEqual(self.inventory.log.serial, serial)

    async def test_a_touch_moves_the_version_and_the_change_log(self) -> None:
        before, serial = self.inventory.get(User, 1), self.inventory.log.serial
        await self.inventory.commit([Touch("user", 1), Touch("user", 77)])
        after = self.inventory.get(User, 1)
        self.assertEqual((after.version, after.full_name), (before.version + 1, before.full_name))
        changes = self.inventory.log.since(serial, True, 1)
        self.assertEqual(changes, [{"type": "user", "id": 1, "change": "updated"}])
