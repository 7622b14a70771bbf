from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, implementer

from fluidvm.driver import IConnection, IEvents, ILiveResize, IPatience, Unreachable
from fluidvm.nodes.timeouts import TimedConnection


@implementer(IConnection, ILiveResize)
class Slow:  # type: ignore[misc]
    """A connection whose verbs end when the test says so."""

    note = "an attribute"

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.calls: list[Deferred[Any]] = []
        self.progress: Any = None
        self.stubborn = False

    def get_domain(self, uuid: str) -> Deferred[Any]:
        call: Deferred[Any] = Deferred(lambda _: self.cancelled.append(uuid))
        self.calls.append(call)
        return call

    def resize_memory(self, uuid: str, memory: int, progress: Any = None) -> Deferred[Any]:
        self.progress = progress
        return self.get_domain(uuid)

    def start(self, uuid: str) -> Deferred[Any]:
        return succeed(uuid)

    def stop(self, uuid: str) -> Deferred[Any]:
        async def stop() -> str:
            try:
                await self.get_domain(uuid)
            except CancelledError:
                self.cleaning: Deferred[None] = Deferred()
                await self.cleaning
                raise
            return uuid

        return Deferred.fromCoroutine(stop())

    def close(self) -> Deferred[Any]:
        return Deferred()


class TimeoutsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.slow = Slow()
        self.hung: list[str] = []
        self.patient: Any = TimedConnection(self.slow, self.clock, "node1", 8.0, self.hung.append)

    def test_it_provides_what_the_connection_provides(self) -> None:
        self.assertTrue(IConnection.providedBy(self.patient))
        self.assertTrue(ILiveResize.providedBy(self.patient))
        self.assertFalse(IEvents.providedBy(self.patient))
        self.assertEqual(self.patient.note, "an attribute")
        self.assertRaises(AttributeError, getattr, self.patient, "fly")

    def test_verbs_with_a_longer_timeout(self) -> None:
        alsoProvides(self.slow, IPatience)
        self.slow.patience = {"get_domain": 20.0, "stop": 1.0}  # type: ignore[attr-defined]
        patient: Any = TimedConnection(self.slow, self.clock, "node1", 8.0, self.hung.append)
        long = patient.get_domain("a")
        self.clock.pump([2.0] * 9)
        self.assertNoResult(long)
        self.clock.pump([2.0] * 2)
        self.failureResultOf(long, Unreachable)
        self.assertEqual(self.hung, ["no answer to get_domain within 20 s"])
        short = patient.stop("b")
        self.clock.pump([2.0] * 3)
        self.assertNoResult(short)
        self.slow.calls[-1].callback(None)
        self.assertEqual(self.successResultOf(short), "b")

    def test_verbs_that_end_in_time(self) -> None:
        self.assertEqual(self.successResultOf(self.patient.start("a")), "a")
        call = self.patient.get_domain("a")
        self.clock.advance(7)
        self.slow.calls[0].callback("it")
        self.assertEqual(self.successResultOf(call), "it")
        failing = self.patient.get_domain("b")
        self.slow.calls[1].errback(Unreachable("gone"))
        self.assertEqual(str(self.failureResultOf(failing, Unreachable).value), "gone")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.hung, [])

    def test_verbs_that_time_out(self) -> None:
        early, late = self.patient.get_domain("a"), None
        self.clock.advance(4)
        late = self.patient.get_domain("b")
        self.clock.pump([1] * 6)
        for call in (early, late):
            words = str(self.failureResultOf(call, Unreachable).value)
            self.assertIn("node1", words)
            self.assertIn("no answer to get_domain within 8 s", words)
        self.assertEqual(self.hung, ["no answer to get_domain within 8 s"])
        self.assertEqual(self.slow.cancelled, ["a", "b"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_progress_extends_the_timeout(self) -> None:
        told: list[int] = []
        call = self.patient.resize_memory("a", 1, told.append)
        for percentage in range(10):
            self.clock.pump([1] * 6)
            self.slow.progress(percentage)
        self.assertNoResult(call)
        self.assertEqual(told, list(range(10)))
        self.clock.pump([1] * 10)
        self.failureResultOf(call, Unreachable)

    def test_cancelling_waits_until_the_driver_has_stopped(self) -> None:
        call = self.patient.stop("a")
        call.cancel()
        self.assertEqual(self.slow.cancelled, ["a"])
        self.assertNoResult(call)
        self.slow.cleaning.callback(None)
        self.failureResultOf(call, CancelledError)

    def test_cleaning_up_after_a_cancellation_has_a_timeout(self) -> None:
        call = self.patient.stop("a")
        call.cancel()
        self.clock.pump([1] * 10)
        self.failureResultOf(call, CancelledError)
        self.assertEqual(len(self.hung), 1)

    def test_cancelling_twice_does_not_wait(self) -> None:
        call = self.patient.stop("a")
        call.cancel()
        call.cancel()
        self.failureResultOf(call, CancelledError)
