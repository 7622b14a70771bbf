"""A console's WebSocket, on a Clock and a transport in memory: how long it stays, and what a client may do to it."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, CloseConnection, Ping, Request

from fluidvm.model.faults import Conflict, NotFound, Unavailable
from fluidvm.wire.websocket import LOOK, PING, SILENCE
from tests.unit.wire.console_case import HEAD, UPGRADE, Console, ConsoleCase
from tests.unit.wire.support import SiteTests


class WebSocketTests(ConsoleCase):
    def test_what_is_no_websocket(self) -> None:
        for head in (
            HEAD,
            HEAD + b"Upgrade: websocket\r\n",
            HEAD + UPGRADE.replace(b"13", b"8"),
            HEAD + UPGRADE.replace(b"Key", b"Kex"),
            HEAD.replace(b"GET", b"PUT") + b"Content-Length: 0\r\n" + UPGRADE,
        ):
            code, headers, _ = self.refused(head + b"\r\n")
            self.assertEqual((code, headers["upgrade"], headers["sec-websocket-version"]), (426, "websocket", "13"), head)
        self.assertIsNone(self.console.viewer)

    def test_what_it_is_refused_for(self) -> None:
        for error, status in (
            (Conflict("It is stopped."), 409),
            (Unavailable("It is away."), 503),
            (NotFound("It is gone."), 404),
            (RuntimeError("bug"), 500),
        ):
            self.console.error = error
            code, _, body = self.refused(HEAD + UPGRADE + b"\r\n")
            self.assertEqual(code, status)
            self.assertEqual(body.decode().strip() == str(error), status != 500)
        self.flushLoggedErrors(RuntimeError)

    def test_both_ways(self) -> None:
        self.open()
        self.assertEqual(self.console.address, "10.0.0.1")
        self.send(BytesMessage(b"typed"), Ping(b"there?"))
        self.assertEqual(self.console.guest.value(), b"typed")
        self.console.viewer.dataReceived(b"said")
        pong, message = self.events()
        self.assertEqual((pong.payload, message.data), (b"there?", b"said"))  # type: ignore[attr-defined]

    def test_what_comes_with_the_handshake(self) -> None:
        site = self.site()
        channel, transport = self.connect(site)
        client = WSConnection(ConnectionType.CLIENT)
        head = client.send(Request(host="x", target="/console?ticket=t"))
        # As a client would that doesn't wait for the answer: a masked frame of "hi".
        channel.dataReceived(head + b"\x82\x82\x00\x00\x00\x00hi")
        self.assertEqual(self.console.guest.value(), b"hi")
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 101 "))

    def test_in_pieces(self) -> None:
        self.open()
        for byte in self.client.send(BytesMessage(b"typed")):
            self.channel.dataReceived(bytes([byte]))
        self.assertEqual(self.console.guest.value(), b"typed")

    def test_what_breaks_the_protocol(self) -> None:
        for frame, code in (
            (b"\x82\x02hi", 1002),
            (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
            (b"\xff\x80\x00\x00\x00\x00", 1002),
        ):
            self.console = Console()
            self.open()
            self.channel.dataReceived(frame)
            self.assertEqual(self.closed()[0], code)
            self.assertTrue(self.transport.disconnecting)
            self.leave(self.channel)
            self.assertTrue(self.console.guest.lost)

    def test_a_client_that_goes_on_after_the_end(self) -> None:
        self.open()
        self.console.viewer.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.transport.disconnecting, False)
        self.send(Ping(b"x"), BytesMessage(b"y"))
        self.closed()
        self.assertEqual(self.console.guest.value(), b"")

    def test_the_client_ends_it(self) -> None:
        self.open()
        self.send(CloseConnection(1000))
        self.assertEqual(self.events()[0].code, 1000)  # type: ignore[attr-defined]
        self.assertTrue(self.transport.disconnecting)
        self.leave(self.channel)
        self.assertTrue(self.console.guest.lost)
        self.assertEqual(self.on.connections, 0)

    def test_the_console_ends(self) -> None:
        self.open()
        self.console.viewer.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.closed(), (1000, "The console has ended."))
        self.assertEqual(self.console.left_times, 1)
        self.assertFalse(self.transport.disconnecting)
        self.channel.dataReceived(b"\x88\x80\x00\x00\x00\x00")
        self.assertTrue(self.transport.disconnecting)

    def test_a_client_that_does_not_answer_the_end(self) -> None:
        self.open()
        self.console.viewer.connectionLost(Failure(ConnectionDone()))
        self.pass_time(8)
        self.assertTrue(self.transport.aborted)

    def test_who_may_not_any_more(self) -> None:
        self.open()
        self.pass_time(2 * LOOK)
        self.console.words = "The session has ended."
        self.pass_time(LOOK + 1)
        self.assertEqual(self.closed(), (1008, "The session has ended."))
        self.assertTrue(self.console.guest.lost)
        self.console.viewer.dataReceived(b"secret")
        self.assertEqual(self.transport.value(), b"")

    def test_someone_is_there(self) -> None:
        self.open()
        self.pass_time(PING - 1)
        self.assertEqual(self.console.touched, 0)
        self.send(BytesMessage(b"x"))
        self.pass_time(LOOK + 1)
        self.assertEqual(self.console.touched, 1)

    def test_pings(self) -> None:
        self.open()
        for _ in range(10):
            self.pass_time(PING + 1)
            pings = [event for event in self.events() if isinstance(event, Ping)]
            self.assertTrue(pings)
            self.send(*(ping.response() for ping in pings))
        self.assertFalse(self.transport.aborted)
        self.assertGreater(self.console.touched, 8)
        self.pass_time(SILENCE + 2 * LOOK)
        self.assertTrue(self.transport.aborted)

    def test_a_client_that_does_not_read(self) -> None:
        self.open(send_time=20.0)
        self.channel.pauseProducing()
        self.assertEqual(self.console.guest.producerState, "paused")
        self.channel.resumeProducing()
        self.assertEqual(self.console.guest.producerState, "producing")
        self.channel.pauseProducing()
        self.pass_time(20 + 2 * LOOK)
        self.assertTrue(self.transport.aborted)

    def test_a_guest_that_does_not_read(self) -> None:
        self.open()
        self.console.guest.producer.pauseProducing()  # type: ignore[union-attr]
        self.assertEqual(self.transport.producerState, "paused")
        self.console.guest.producer.resumeProducing()  # type: ignore[union-attr]
        self.assertEqual(self.transport.producerState, "producing")

    def test_the_server_stops(self) -> None:
        self.open()
        self.on.stopFactory()
        self.assertEqual(self.closed(), (1001, "The server is stopping."))

    def test_a_client_that_left_while_it_was_opened(self) -> None:
        site = self.site()
        channel, transport = self.connect(site)
        waiting: list[Any] = []

        async def open(viewer: Any, address: str) -> None:
            waiting.append(viewer)

        self.console.open = open  # type: ignore[method-assign]
        channel.dataReceived(HEAD + UPGRADE + b"\r\n")
        self.leave(channel)
        waiting[0].makeConnection(self.console.guest)
        self.assertTrue(self.console.guest.lost)
        self.assertEqual(transport.value(), b"")


class OthersTests(SiteTests):
    def test_there_are_none_without(self) -> None:
        self.assertEqual(self.one(HEAD + UPGRADE + b"\r\n")[0], 404)
