"""Rows that wait for the end of their transaction."""

from __future__ import annotations

from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, insert, select
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.store.end_of_transaction import insert_at_end, insert_now, rows_at_end

TABLE = Table("numbers", MetaData(), Column("number", Integer))
ADD = insert(TABLE)


class EndOfTransactionTests(SynchronousTestCase):
    def setUp(self) -> None:
        engine = create_engine("sqlite://")
        self.addCleanup(engine.dispose)
        self.connection = engine.connect()
        self.addCleanup(self.connection.close)
        TABLE.metadata.create_all(self.connection)

    def numbers(self, connection: Connection) -> list[int]:
        return list(connection.execute(select(TABLE.c.number).order_by(TABLE.c.number)).scalars())

    def test_rows_are_inserted_when_the_block_ends(self) -> None:
        with rows_at_end(self.connection):
            insert_at_end(self.connection, ADD, [{"number": 1}, {"number": 2}])
            insert_at_end(self.connection, ADD, [])
            self.assertEqual(self.numbers(self.connection), [])
        self.assertEqual(self.numbers(self.connection), [1, 2])

    def test_who_reads_them_has_them_inserted_once(self) -> None:
        with rows_at_end(self.connection):
            insert_at_end(self.connection, ADD, [{"number": 1}])
            insert_now(self.connection)
            self.assertEqual(self.numbers(self.connection), [1])
            insert_at_end(self.connection, ADD, [{"number": 2}])
        self.assertEqual(self.numbers(self.connection), [1, 2])

    def test_a_block_that_fails_inserts_nothing(self) -> None:
        with self.assertRaises(ZeroDivisionError), rows_at_end(self.connection):
            insert_at_end(self.connection, ADD, [{"number": 1}])
            raise ZeroDivisionError
        with rows_at_end(self.connection):
            pass
        self.assertEqual(self.numbers(self.connection), [])

    def test_outside_of_a_block_no_row_is_lost_unnoticed(self) -> None:
        self.assertRaises(KeyError, insert_at_end, self.connection, ADD, [{"number": 1}])
