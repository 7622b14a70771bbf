"""Who gets how many of a connection's places for commands."""

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
        """Ask for more places than there are. Gives those who wait."""
        return [taking for taking in [self.take(keep) for _ in range(6)] if not taking.called]

    def test_some_are_left_to_others(self) -> None:
        for keep, refused in ((LASTING, 3), (CHANGING, 5), (READING, 5)):
            waiting = self.fill(keep)
            self.assertEqual(len(waiting), refused, keep)
            for taking in waiting:
                taking.cancel()
                self.failureResultOf(taking, CancelledError)

    def test_all_are_for_those_that_read(self) -> None:
        self.assertEqual(len(self.fill(READING)), 1)

    def test_one_that_is_given_back_is_for_who_waits(self) -> None:
        first, second, *_ = self.fill(LASTING)
        self.places.give_back(LASTING)
        self.successResultOf(first)
        self.assertNoResult(second)

    def test_none_in_time(self) -> None:
        waiting = self.fill(LASTING)
        self.clock.advance(59.0)
        self.assertNoResult(waiting[0])
        self.clock.advance(2.0)
        for taking in waiting:
            error = self.failureResultOf(taking, DriverError).value
            self.assertNotIsInstance(error, Unreachable)
            self.assertIn("60 s", str(error))
        # Who has given up is in nobody's way.
        self.places.give_back(LASTING)
        self.successResultOf(self.take(LASTING))
        self.successResultOf(self.take(CHANGING))
        self.successResultOf(self.take(READING))

    def test_who_finds_the_last_place_taken_keeps_none(self) -> None:
        self.fill(READING)
        waiting = self.take(LASTING)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        for _ in range(5):
            self.places.give_back(READING)
        self.assertEqual(len(self.fill(LASTING)), 3)
