"""Hostile WebSockets: clients that never read, consoles that take nothing, frames in masses, frames that are none."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from fluidvm.wire.bounds import LINGER
from fluidvm.wire.websocket import LOOK, MOST_AT_ONCE, SILENCE
from tests.unit.wire.console_case import Console, ConsoleCase
from tests.unit.wire.support import Slow

PING = b"\x89\xfd\x00\x00\x00\x00" + b"x" * 125
EMPTY_PING = b"\x89\x80\x00\x00\x00\x00"
PIECE = 2**16
"""Bytes that a reactor reads at once."""


class FloodTests(ConsoleCase):
    def setUp(self) -> None:
        super().setUp()
        self.transport_class = Slow

    def open(self, **options: Any) -> None:
        super().open(**options)
        self.transport.take()

    def flood(self, data: bytes, most: int = 400) -> int:
        """Send pieces for as long as the server reads. Gives how many it has read."""
        for count in range(most):
            turns = 0
            while self.transport.producerState == "paused":
                turns += 1
                if turns > 200:  # it isn't just busy
                    return count
                self.clock.advance(0)
            self.channel.dataReceived(data)
        return most

    def test_pings_of_a_client_that_does_not_read(self) -> None:
        self.open()
        read = self.flood(PING * (PIECE // len(PING)))
        self.assertLess(read, 4)
        self.assertLess(self.transport.unsent, 2 * PIECE)
        self.transport.take()
        self.assertGreater(self.flood(PING * (PIECE // len(PING))), 0)
        self.assertLess(self.transport.unsent, 2 * PIECE)

    def test_writes_do_not_prolong_it(self) -> None:
        self.open(send_time=20.0)
        for _ in range(3):
            self.console.viewer.dataReceived(b"x" * PIECE)
        self.assertEqual(self.console.guest.producerState, "paused")
        for _ in range(4):  # a console whose host sends on what was under way
            self.pass_time(4.5)
            self.assertFalse(self.transport.aborted)
            self.console.viewer.dataReceived(b"more")
        self.pass_time(2 + LOOK)
        self.assertTrue(self.transport.aborted)

    def test_a_slow_client_is_not_taken_for_a_silent_one(self) -> None:
        self.open()
        for _ in range(3):
            self.console.viewer.dataReceived(b"x" * 2 * PIECE)
            unsent = self.transport.unsent
            self.pass_time(SILENCE + 3 * LOOK)
            self.assertFalse(self.transport.aborted)
            self.assertEqual(self.transport.unsent, unsent)  # no pings either
            self.transport.take()
            self.assertEqual(self.console.guest.producerState, "producing")
        self.assertGreater(self.console.touched, 15)
        self.pass_time(SILENCE + 3 * LOOK)
        self.assertTrue(self.transport.aborted)

    def test_both_sides_stuck(self) -> None:
        self.open()
        producer: Any = self.console.guest.producer
        self.channel.pauseProducing()
        producer.pauseProducing()
        self.channel.resumeProducing()
        self.assertEqual(self.transport.producerState, "paused")
        producer.resumeProducing()
        self.assertEqual(self.transport.producerState, "producing")
        producer.pauseProducing()
        self.channel.pauseProducing()
        producer.resumeProducing()
        self.assertEqual(self.transport.producerState, "paused")
        self.channel.resumeProducing()
        self.assertEqual(self.transport.producerState, "producing")

    def test_a_console_that_takes_nothing(self) -> None:
        self.open(send_time=20.0)
        for _ in range(5):
            self.console.guest.producer.pauseProducing()  # type: ignore[union-attr]
            self.pass_time(4)
        self.assertFalse(self.console.guest.lost)
        while not self.console.guest.lost:
            self.pass_time(1)
            self.assertLess(self.clock.seconds(), 20 + 2 * LOOK)
        self.assertEqual(self.closed(), (1013, "The console accepts no more input."))
        self.assertTrue(self.console.guest.lost)
        self.assertEqual(self.transport.producerState, "producing")
        self.assertFalse(self.console.guest.aborted)
        self.pass_time(LINGER + 1)
        self.assertTrue(self.console.guest.aborted)

    def test_a_console_that_ends_in_time(self) -> None:
        self.open()
        self.leave(self.channel)
        self.assertTrue(self.console.guest.lost)
        self.console.viewer.connectionLost(Failure(ConnectionDone()))
        self.pass_time(LINGER + 1)
        self.assertFalse(self.console.guest.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_masses_are_looked_at_bit_by_bit(self) -> None:
        self.open()
        count = PIECE // len(EMPTY_PING)
        self.channel.dataReceived(EMPTY_PING * count)
        self.assertLessEqual(self.transport.unsent, 2 * MOST_AT_ONCE)
        self.assertEqual(self.transport.producerState, "paused")
        self.clock.pump([0] * (count // MOST_AT_ONCE + 2))
        self.assertEqual(self.transport.unsent, 2 * count)
        self.assertEqual(self.transport.producerState, "producing")

    def test_what_is_left_waits_for_the_console(self) -> None:
        self.open()
        typed = b"".join(self.client.send(BytesMessage(b"%d " % number)) for number in range(500))
        guest = self.console.guest
        write = guest.write

        def full(data: bytes) -> None:
            write(data)
            guest.producer.pauseProducing()  # type: ignore[union-attr]

        guest.write = full  # type: ignore[method-assign]
        self.channel.dataReceived(typed)
        self.clock.pump([0] * 10)
        self.assertEqual(guest.value(), b"0 ")
        guest.write = write  # type: ignore[method-assign]
        guest.producer.resumeProducing()  # type: ignore[union-attr]
        self.clock.pump([0] * 10)
        self.assertEqual(guest.value(), b"".join(b"%d " % number for number in range(500)))

    def test_gone_in_the_middle(self) -> None:
        self.open()
        self.channel.dataReceived(EMPTY_PING * 1000)
        self.leave(self.channel)
        self.pass_time(LINGER + 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_ping_after_the_end(self) -> None:
        self.open()
        self.console.viewer.connectionLost(Failure(ConnectionDone()))
        self.send(Ping(b"x"), BytesMessage(b"typed"))
        self.assertEqual(self.console.guest.value(), b"")
        self.assertEqual(self.closed(), (1000, "The console has ended."))


EVENTS = st.one_of(
    st.builds(BytesMessage, data=st.binary(max_size=300), message_finished=st.booleans()),
    st.builds(TextMessage, data=st.text(max_size=100), message_finished=st.booleans()),
    st.builds(Ping, payload=st.binary(max_size=125)),
)


class FuzzTests(ConsoleCase):
    """Whatever a client sends: nothing reaches the log, little is held, and the connection ends or goes on."""

    def fresh(self) -> None:
        self.console = Console()
        self.transport_class = Slow
        self.open()

    def check(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if not self.transport.disconnecting:
                self.channel.dataReceived(piece)
                self.clock.pump([0] * 3)
        self.assertLessEqual(len(self.console.guest.value()), sum(map(len, pieces)))
        self.pass_time(LOOK)
        self.leave(self.channel)
        self.assertTrue(self.console.guest.lost)
        self.pass_time(LINGER + 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    @given(st.lists(st.binary(max_size=200), max_size=10))
    def test_bytes(self, pieces: list[bytes]) -> None:
        self.fresh()
        self.check(pieces)

    @given(
        st.lists(
            st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=140)).map(
                lambda frame: bytes(frame[:2]) + frame[2]
            ),
            max_size=10,
        )
    )
    def test_frames(self, frames: list[bytes]) -> None:
        self.fresh()
        self.check(frames)

    @given(st.lists(EVENTS, max_size=20), st.integers(0, 2**32), st.integers(1, 50), st.integers(0, 255))
    def test_frames_with_a_wrong_byte(self, events: list[Event], seed: int, size: int, byte: int) -> None:
        self.fresh()
        sent = bytearray()
        for event in events:
            sent += self.client.send(event) if not isinstance(event, TextMessage | BytesMessage) else self.whole(event)
        if sent:
            sent[random.Random(seed).randrange(len(sent))] = byte
        self.check([bytes(sent[start : start + size]) for start in range(0, len(sent), size)])

    def whole(self, event: Any) -> bytes:
        # A client's library refuses to begin another message before the first one has ended; this one begins.
        return self.client.send(type(event)(event.data))

    @given(st.sampled_from(["console", "stop", "client"]), st.lists(st.binary(max_size=100), max_size=5))
    def test_after_the_end(self, how: str, pieces: list[bytes]) -> None:
        self.fresh()
        if how == "console":
            self.console.viewer.connectionLost(Failure(ConnectionDone()))
        elif how == "stop":
            self.on.stopFactory()
        else:
            self.send(CloseConnection(1000))
        for piece in [EMPTY_PING, *pieces]:
            self.channel.dataReceived(piece)
        self.leave(self.channel)
        self.pass_time(LINGER + 1)
        self.assertEqual(self.flushLoggedErrors(), [])
