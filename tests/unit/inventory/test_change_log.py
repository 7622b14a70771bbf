from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fluidvm.inventory import change_log
from fluidvm.inventory.change_log import ChangeLog
from fluidvm.store.objects import ChangeRow


def rows(*changes: tuple[str, int, str], owner: int | None = 7) -> list[ChangeRow]:
    return [ChangeRow(serial, *change, owner) for serial, change in enumerate(changes, 1)]


class ChangeLogTests(SynchronousTestCase):
    def summed(self, log: ChangeLog, since: int = 0, everything: bool = True, owner: int = 0) -> list[tuple[object, ...]]:
        return [tuple(change.values()) for change in log.since(since, everything, owner)]

    def test_each_object_once_oldest_first(self) -> None:
        log = ChangeLog()
        log.add(rows(("vm", 1, "created"), ("disk", 1, "updated"), ("vm", 1, "updated"), ("vm", 2, "updated")))
        self.assertEqual(self.summed(log), [("vm", 1, "created"), ("disk", 1, "updated"), ("vm", 2, "updated")])
        self.assertEqual(self.summed(log, since=1), [("disk", 1, "updated"), ("vm", 1, "updated"), ("vm", 2, "updated")])
        self.assertEqual(self.summed(log, since=4), [])

    def test_created_and_deleted_in_between_is_left_out(self) -> None:
        log = ChangeLog()
        log.add(rows(("vm", 1, "created"), ("vm", 2, "updated"), ("vm", 1, "deleted"), ("vm", 2, "deleted")))
        self.assertEqual(self.summed(log), [("vm", 2, "deleted")])

    def test_changes_of_other_owners_are_not_reported(self) -> None:
        log = ChangeLog()
        log.add(rows(("vm", 1, "created"), owner=7))
        log.add([ChangeRow(2, "compute_node", 1, "updated", None), ChangeRow(3, "vm", 2, "created", 8)])
        self.assertEqual(self.summed(log, everything=False, owner=8), [("compute_node", 1, "updated"), ("vm", 2, "created")])

    def test_forgets_the_oldest(self) -> None:
        self.patch(change_log, "WINDOW", 10)
        log = ChangeLog()
        log.add(ChangeRow(serial, "vm", serial, "created", 7) for serial in range(1, 22))
        self.assertFalse(log.remembers(10))
        self.assertTrue(log.remembers(11))
        self.assertFalse(log.remembers(22), "a serial of the future")
        self.assertEqual(len(self.summed(log, since=11)), 10)
