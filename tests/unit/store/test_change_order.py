"""
The promise of the change log: a client that reads from the last serial it knows misses nothing.

A sequence alone does not guarantee this: of two concurrent transactions, the one with the higher number may become visible
first. It is guaranteed because there is only one writer.
"""

from __future__ import annotations

from threading import Event

from sqlalchemy import Connection, create_engine, text
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from fluidvm.store.database import parse_url
from fluidvm.store.objects import ChangeRow, Mention, load_changes, write

from .case import DatabaseCase


def mention(connection: Connection, number: int) -> list[ChangeRow]:
    """Log one to four changes. Some of the calls fail after that."""
    rows = write(connection, [(Mention("task", number, "updated", None), None)] * (1 + number % 4))
    if number % 7 == 0:
        raise ValueError(number)
    return rows


class ChangeOrderTests(DatabaseCase):
    async def test_serials_are_reported_in_order(self) -> None:
        told: list[int] = []

        def tell(rows: list[ChangeRow]) -> None:
            told.extend(row.serial for row in rows)

        await gatherResults(
            self.database.run(mention, number).addCallbacks(tell, lambda failure: failure.trap(ValueError))
            for number in range(500)
        )
        self.assertGreater(len(told), 500)
        self.assertEqual(told, sorted(set(told)))

    async def test_serials_can_exceed_32_bits(self) -> None:
        def use_up(connection: Connection) -> None:
            if connection.dialect.name == "sqlite":
                connection.execute(
                    text("INSERT INTO changes (serial, type, id, change) VALUES (2147483647, 'vm', 1, 'created')")
                )
            else:
                connection.execute(text("SELECT setval('changes_serial_seq', 2147483647)"))

        await self.database.run(use_up)
        (row,) = await self.database.run(mention, 4)
        self.assertEqual(row.serial, 2147483648)
        self.assertEqual((await self.database.run(load_changes, 10))[-1], row)

    async def test_a_reader_misses_nothing(self) -> None:
        written, seen = Event(), list[int]()

        def follow() -> list[int]:
            """Read like another process, until no more changes come."""
            engine = create_engine(parse_url(self.url))
            newer = text("SELECT serial FROM changes WHERE serial > :last ORDER BY serial")
            with engine.connect() as connection:
                ends = False
                while not ends:
                    ends = written.is_set()  # before the last look
                    with connection.begin():
                        seen.extend(connection.execute(newer, {"last": seen[-1] if seen else 0}).scalars())
                with connection.begin():
                    stored = connection.execute(text("SELECT serial FROM changes ORDER BY serial")).scalars().all()
            engine.dispose()
            return list(stored)

        following = deferToThread(follow)
        try:
            for first in range(0, 500, 25):
                await gatherResults(
                    self.database.run(mention, number).addErrback(lambda failure: failure.trap(ValueError))
                    for number in range(first, first + 25)
                )
        finally:
            written.set()
            stored = await following
        self.assertGreater(len(stored), 500)
        self.assertEqual(seen, stored)
