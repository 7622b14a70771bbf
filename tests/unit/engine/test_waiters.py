from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.engine.waiters import Waiters


class WaitersTests(SynchronousTestCase):
    def test_wake_and_timeout(self) -> None:
        clock = Clock()
        waiters = Waiters(clock)
        first, second, other = waiters.wait(1, 5), waiters.wait(1, 5), waiters.wait(2, 5)
        waiters.wake(1)
        self.successResultOf(first)
        self.successResultOf(second)
        clock.advance(4.9)
        self.assertNoResult(other)
        clock.advance(0.4)
        self.successResultOf(other)
        self.assertEqual((len(waiters), clock.getDelayedCalls()), (0, []))

    def test_waits_share_timers(self) -> None:
        clock = Clock()
        waiters = Waiters(clock)
        for number in range(10_000):
            waiters.wait(number, 25)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        waiters.wake_all()
        self.assertEqual((len(waiters), clock.getDelayedCalls()), (0, []))

    def test_cancelled(self) -> None:
        clock = Clock()
        waiters = Waiters(clock)
        waiter = waiters.wait(1, 5)
        waiter.cancel()
        self.failureResultOf(waiter)
        self.assertEqual((len(waiters), clock.getDelayedCalls()), (0, []))
