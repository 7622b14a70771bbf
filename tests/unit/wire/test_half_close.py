"""Clients that end their direction of the connection and go on reading."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface.verify import verifyObject

from fluidvm.wire.xmlrpc import render_answer
from tests.unit.wire.support import SiteTests, Slow, answers, post


class HalfCloseTests(SiteTests):
    def talk(self, data: bytes, later: int = 0) -> tuple[Any, Any, list[Deferred[bytes]]]:
        """Send something and the end. @param later: how many answers come later."""
        waiting: list[Deferred[bytes]] = [Deferred() for _ in range(later)]
        self.dispatcher.answers = list(waiting)
        channel, transport = self.connect(self.site())
        channel.dataReceived(data)
        self.assertFalse(transport.disconnecting)
        channel.readConnectionLost()
        return channel, transport, waiting

    def test_interface(self) -> None:
        verifyObject(IHalfCloseableProtocol, self.connect(self.site())[0])

    def test_nothing_is_under_way(self) -> None:
        for data, count in ((b"", 0), (post(), 1), (post() * 3, 3)):
            _, transport, _ = self.talk(data)
            self.assertTrue(transport.disconnecting)
            self.assertEqual(len(answers(transport.value())), count)

    def test_an_answer_that_comes_later(self) -> None:
        for first in (b"", post()):  # the second one's head is known
            channel, transport = self.connect(self.site())
            channel.dataReceived(first)
            before = len(transport.value())
            waiting: Deferred[bytes] = Deferred()
            self.dispatcher.answers = [waiting]
            channel.dataReceived(post())
            for _ in range(3):  # it is told again each time that it is to be read
                channel.readConnectionLost()
            self.clock.pump([1] * 200)
            self.assertFalse(transport.disconnecting)
            waiting.callback(render_answer("late"))
            ((code, _, body),) = answers(transport.value()[before:])
            self.assertEqual((code, body), (200, render_answer("late")))
            self.assertTrue(transport.disconnecting)

    def test_a_pipeline(self) -> None:
        _, transport, (first, second) = self.talk(post() * 3, later=2)
        first.callback(render_answer(1))
        self.assertFalse(transport.disconnecting)
        second.callback(render_answer(2))
        self.assertEqual(len(answers(transport.value())), 3)
        self.assertTrue(transport.disconnecting)

    def test_answers_at_once_between_later_ones(self) -> None:
        for known in (b"", post()):
            first: Deferred[bytes] = Deferred()
            last: Deferred[bytes] = Deferred()
            channel, transport = self.connect(self.site())
            channel.dataReceived(known)
            before = len(transport.value())
            self.dispatcher.answers = [first, render_answer(2), render_answer(3), last]
            channel.dataReceived(post() * 4)
            channel.readConnectionLost()
            first.callback(render_answer(1))
            self.assertEqual(len(answers(transport.value()[before:])), 3)
            self.assertFalse(transport.disconnecting)
            last.callback(render_answer(4))
            self.assertEqual(len(answers(transport.value()[before:])), 4)
            self.assertTrue(transport.disconnecting)

    def test_what_is_not_whole_is_not_waited_for(self) -> None:
        for part in (post()[:10], post()[:-3], b"PUT /images/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"):
            for known in (b"", post()):
                channel, transport = self.connect(self.site())
                channel.dataReceived(known)
                channel.dataReceived(part)
                channel.readConnectionLost()
                self.assertTrue(transport.disconnecting, part)
            _, transport, (first,) = self.talk(post() + part, later=1)
            self.assertFalse(transport.disconnecting)
            first.callback(render_answer(1))
            self.assertEqual(len(answers(transport.value())), 1)
            self.assertTrue(transport.disconnecting, part)

    def test_a_client_that_reads_slowly(self) -> None:
        self.transport_class = Slow
        large = render_answer("x" * 2**18)
        channel, slow = self.connect(self.site())
        transport: Any = slow
        self.dispatcher.answers = [large] * 3
        channel.dataReceived(post() * 3)
        channel.readConnectionLost()
        for count in (1, 2, 3):
            self.assertEqual(len(answers(transport.value())), count)
            self.assertFalse(transport.disconnecting)
            transport.take()
        self.assertTrue(transport.disconnecting)

    def test_one_that_was_refused(self) -> None:
        site = self.site(connections=1)
        self.connect(site)
        channel, transport = self.connect(site)
        channel.readConnectionLost()
        self.assertTrue(transport.disconnecting)

    def test_after_an_answer_that_ends_the_connection(self) -> None:
        channel, transport = self.connect(self.site())
        channel.dataReceived(b"nothing\r\n\r\n")
        self.assertFalse(transport.disconnecting)
        channel.readConnectionLost()
        self.assertTrue(transport.disconnecting)
