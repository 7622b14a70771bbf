"""The states of a connection, and the events that change them."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from fluidvm.wire.channel import Channel
from fluidvm.wire.states import State
from fluidvm.wire.xmlrpc import render_answer
from tests.unit.wire.support import SiteTests, Transport, post

PUT = b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"


class StatesTests(SiteTests):
    def in_state(self, state: State) -> tuple[Channel, Transport]:
        """Make a connection that is in a state."""
        site = self.site(connections=1)
        if state is State.REFUSED:
            self.connect(site)
        channel, transport = self.connect(site)
        if state is State.RECEIVING:
            channel.dataReceived(PUT + b"ab")
        elif state is State.HOLDING:
            channel.dataReceived(post())
            channel.dataReceived(post()[:-3])
        elif state is State.ANSWERING:
            self.dispatcher.answers = [Deferred()]
            channel.dataReceived(post())
        elif state is State.DISCARDING:
            channel.dataReceived(b"nothing\r\n\r\n")
        elif state is State.CLOSING:
            channel.loseConnection()
        self.assertIs(channel.state, state)
        return channel, transport

    def test_a_call(self) -> None:
        channel, _ = self.in_state(State.IDLE)
        channel.dataReceived(post()[:5])
        self.assertIs(channel.state, State.RECEIVING)
        channel.dataReceived(post()[5:])
        self.assertIs(channel.state, State.IDLE)

    def test_a_known_call(self) -> None:
        channel, transport = self.in_state(State.HOLDING)
        before = len(transport.value())
        channel.dataReceived(post()[-3:])
        self.assertIs(channel.state, State.IDLE)
        self.assertGreater(len(transport.value()), before)

    def test_an_answer_that_comes_later(self) -> None:
        for known in (b"", post()):
            channel, _ = self.in_state(State.IDLE)
            channel.dataReceived(known)
            answer: Deferred[bytes] = Deferred()
            self.dispatcher.answers = [answer]
            channel.dataReceived(post())
            self.assertIs(channel.state, State.ANSWERING)
            answer.callback(render_answer(1))
            self.assertIs(channel.state, State.IDLE)

    def test_the_last_request(self) -> None:
        channel, _ = self.in_state(State.IDLE)
        channel.dataReceived(post(headers=b"Connection: close\r\nContent-Type: text/xml\r\n"))
        self.assertIs(channel.state, State.CLOSING)

    def test_no_memory_left(self) -> None:
        site = self.site()
        channel, transport = self.connect(site)
        large = post(b"x" * 2**15)
        channel.dataReceived(large)
        channel.dataReceived(large[: 2**14])
        self.assertIs(channel.state, State.HOLDING)
        site.unfinished.take("10.0.0.2", 2**28)
        channel.dataReceived(large[2**14 :][:1000])
        self.assertIs(channel.state, State.DISCARDING)
        self.assertIn(b"HTTP/1.1 503 ", transport.value())

    def test_deadlines(self) -> None:
        for state, then in (
            (State.IDLE, State.CLOSING),
            (State.RECEIVING, State.DISCARDING),
            (State.HOLDING, State.DISCARDING),
            (State.DISCARDING, State.CLOSING),
        ):
            channel, transport = self.in_state(state)
            channel.expire()
            self.assertEqual(channel.state, then, state)
            self.assertFalse(transport.aborted)
        channel, transport = self.in_state(State.CLOSING)
        channel.expire()
        self.assertTrue(transport.aborted)

    def test_the_server_stops(self) -> None:
        for state, then in (
            (State.IDLE, State.CLOSING),
            (State.HOLDING, State.CLOSING),
            (State.RECEIVING, State.RECEIVING),
            (State.ANSWERING, State.ANSWERING),
            (State.DISCARDING, State.DISCARDING),
        ):
            channel, _ = self.in_state(state)
            channel.finish_up()
            self.assertEqual((channel.state, channel.persistent), (then, False), state)

    def test_the_client_ends_its_direction(self) -> None:
        for state in (State.IDLE, State.RECEIVING, State.HOLDING, State.DISCARDING, State.CLOSING):
            channel, _ = self.in_state(state)
            channel.readConnectionLost()
            self.assertEqual(channel.state, State.CLOSING, state)
        for state in (State.ANSWERING, State.REFUSED):
            channel, _ = self.in_state(state)
            channel.readConnectionLost()
            self.assertEqual(channel.state, state)

    def test_the_connection_is_lost(self) -> None:
        for state in State:
            if state is not State.RELAYING:
                channel, _ = self.in_state(state)
                channel.connectionLost(Failure(ConnectionDone()))
                self.assertEqual(channel.state, state if state is State.REFUSED else State.CLOSING)
                self.assertEqual(channel.deadline, float("inf"))
                self.assertEqual(channel.site.unfinished.held, 0)

    def test_what_comes_after_the_end_of_http_is_thrown_away(self) -> None:
        for state in (State.DISCARDING, State.CLOSING, State.REFUSED):
            channel, transport = self.in_state(state)
            before, asked = transport.value(), len(self.dispatcher.bodies)
            channel.dataReceived(post() * 2)
            self.assertEqual((channel.state, transport.value(), len(self.dispatcher.bodies)), (state, before, asked))

    def test_a_known_call_of_a_client_that_is_slow(self) -> None:
        """It is held until the client has taken the answer before."""
        channel, transport = self.in_state(State.IDLE)
        channel.dataReceived(post())
        before = len(transport.value())
        channel.pauseProducing()
        channel.dataReceived(post())
        self.assertEqual((channel.state, len(transport.value()), len(self.dispatcher.bodies)), (State.IDLE, before, 1))
        channel.resumeProducing()
        self.assertEqual((channel.state, len(self.dispatcher.bodies)), (State.IDLE, 2))
        self.assertGreater(len(transport.value()), before)
