"""Answers that clients have not read: how they are counted, and which of them wait."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.model.faults import Unavailable
from fluidvm.wire.bounds import SMALL
from fluidvm.wire.unsent import TIMEOUT, Unsent
from tests.unit.wire.support import SiteTests, Slow, post

LARGE = b"x" * 2**18


class ConnectionTests(SiteTests):
    """What connections count as unsent."""

    def setUp(self) -> None:
        super().setUp()
        self.transport_class = Slow
        self.on = self.site()

    def ask(self, answer: Any = LARGE, times: int = 1, host: str = "10.0.0.1") -> tuple[Any, Any]:
        self.dispatcher.answers = [answer] * times
        channel, transport = self.connect(self.on, host)
        channel.dataReceived(post() * times)
        return channel, transport

    def test_an_answer_that_is_read(self) -> None:
        _, transport = self.ask()
        self.assertEqual(self.on.unsent.held, len(LARGE))
        transport.take()
        self.assertEqual(self.on.unsent.held, 0)

    def test_a_client_that_disconnects(self) -> None:
        channel, _ = self.ask()
        channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.on.unsent.held, 0)

    def test_several_connections(self) -> None:
        first, second = self.ask()[1], self.ask(host="10.0.0.2")[1]
        self.assertEqual(self.on.unsent.held, 2 * len(LARGE))
        self.assertFalse(self.on.unsent.has_room("10.0.0.3", 256 * 2**20 - 2 * len(LARGE) + 1))
        first.take()
        second.take()
        self.assertEqual(self.on.unsent.held, 0)

    def test_a_pipeline_is_answered_as_it_is_read(self) -> None:
        _, transport = self.ask(times=5)
        for _ in range(5):
            self.assertEqual(self.on.unsent.held, len(LARGE))
            self.assertLess(transport.unsent, len(LARGE) + 1000)
            transport.take()
        self.assertEqual(self.on.unsent.held, 0)

    def test_small_answers_do_not_count(self) -> None:
        for size in (100, SMALL + 1, 2**15):
            self.ask(b"x" * size)
        self.assertEqual(self.on.unsent.held, 0)

    def test_an_answer_that_comes_later(self) -> None:
        later: Deferred[bytes] = Deferred()
        channel, transport = self.ask(later)
        later.callback(LARGE)
        self.assertEqual(self.on.unsent.held, len(LARGE))
        transport.take()
        self.assertEqual(self.on.unsent.held, 0)
        later = Deferred()
        channel, transport = self.ask(later)
        channel.connectionLost(Failure(ConnectionDone()))
        later.callback(LARGE)
        self.assertEqual(self.on.unsent.held, 0)

    def test_further_requests_do_not_extend_the_timeout(self) -> None:
        """A client that reads nothing is disconnected after the send timeout, even if it sends more."""
        channel, transport = self.ask(times=2)
        for _ in range(12):
            self.clock.pump([1] * 9)
            channel.dataReceived(post())
            self.assertFalse(transport.aborted)
        self.clock.pump([1] * 14)
        self.assertTrue(transport.aborted)


class RoomTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.unsent = Unsent(self.clock, 100)

    def wait(self, address: str, size: int) -> Any:
        return Deferred.fromCoroutine(self.unsent.room(address, size))

    def test_first_come_first_served(self) -> None:
        self.unsent.take("a", 50)
        self.unsent.take("b", 40)
        order: list[str] = []

        def came(name: str, size: int) -> Any:
            def take(nothing: None) -> None:
                order.append(name)
                self.unsent.take(name, size)

            return take

        for name, size in (("c", 30), ("d", 20), ("e", 20)):
            waiting = self.wait(name, size)
            self.assertNoResult(waiting)
            waiting.addCallback(came(name, size))
        self.unsent.give("b", 10)
        self.assertEqual(order, [])  # d would fit in, but c came first
        self.unsent.give("b", 10)
        self.assertEqual(order, ["c"])
        self.unsent.give("a", 50)
        self.assertEqual(order, ["c", "d", "e"])
        self.assertEqual((self.unsent.held, self.unsent.waiting), (90, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_address_has_half(self) -> None:
        self.unsent.take("a", 40)
        mine = self.wait("a", 20)
        self.assertNoResult(mine)
        self.successResultOf(self.wait("b", 50))
        self.unsent.take("b", 50)
        self.unsent.give("a", 40)
        self.successResultOf(mine)

    def test_an_address_that_waits_for_its_half_does_not_block_others(self) -> None:
        self.unsent.take("a", 50)
        self.unsent.take("b", 50)
        first, second = self.wait("a", 10), self.wait("c", 10)
        self.unsent.give("b", 20)
        self.assertNoResult(first)
        self.successResultOf(second)
        self.unsent.give("a", 50)
        self.successResultOf(first)

    def test_waiting_is_limited(self) -> None:
        self.unsent.take("a", 100)
        first = self.wait("b", 60)
        self.failureResultOf(self.wait("c", 60), Unavailable)
        self.clock.advance(TIMEOUT - 1)
        self.assertNoResult(first)
        self.clock.advance(1)
        self.failureResultOf(first, Unavailable)
        self.assertEqual(self.unsent.waiting, 0)
        self.unsent.give("a", 100)
        self.assertEqual((self.unsent.held, self.clock.getDelayedCalls()), (0, []))
