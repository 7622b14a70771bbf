"""How the slots of a connection are shared by its commands."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DriverError, Unreachable
from fluidvm.drivers.openvz.node import CHANGING, LASTING
from fluidvm.drivers.openvz.places import Places

READING = 0


class PlacesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.places = Places(self.clock, 5)

    def take(self, keep: int, timeout: float = 60.0) -> Deferred[None]:
        return Deferred.fromCoroutine(self.places.take("vzctl on vz1", keep, timeout))

    def fill(self, keep: int) -> list[Deferred[None]]:
        """Request more slots than there are. Returns the waiting requests."""
        return [taking for taking in [self.take(keep) for _ in range(6)] if not taking.called]

    def test_some_slots_are_left_to_others(self) -> None:
        for keep, refused in ((LASTING, 3), (CHANGING, 5), (READING, 5)):
            waiting = self.fill(keep)
            self.assertEqual(len(waiting), refused, keep)
            for taking in waiting:
                taking.cancel()
                self.failureResultOf(taking, CancelledError)

    def test_reading_commands_can_use_all_slots(self) -> None:
        self.assertEqual(len(self.fill(READING)), 1)

    def test_a_returned_slot_goes_to_a_waiting_command(self) -> None:
        first, second, *_ = self.fill(LASTING)
        self.places.give_back(LASTING)
        self.successResultOf(first)
        self.assertNoResult(second)

    def test_no_slot_is_free_in_time(self) -> None:
        waiting = self.fill(LASTING)
        self.clock.advance(59.0)
        self.assertNoResult(waiting[0])
        self.clock.advance(2.0)
        for taking in waiting:
            error = self.failureResultOf(taking, DriverError).value
            self.assertNotIsInstance(error, Unreachable)
            self.assertIn("60 s", str(error))
        # A request that has timed out doesn't block others.
        self.places.give_back(LASTING)
        self.successResultOf(self.take(LASTING))
        self.successResultOf(self.take(CHANGING))
        self.successResultOf(self.take(READING))

    def test_a_command_that_times_out_keeps_no_slot(self) -> None:
        self.fill(READING)
        waiting = self.take(LASTING)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        for _ in range(5):
            self.places.give_back(READING)
        self.assertEqual(len(self.fill(LASTING)), 3)
