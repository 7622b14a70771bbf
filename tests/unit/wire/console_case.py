"""A console's WebSocket over a transport in memory, with a client."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request

from fluidvm.model.faults import NotFound
from fluidvm.wire.channel import Channel
from tests.unit.wire.support import SiteTests

HEAD = b"GET /console?ticket=t HTTP/1.1\r\nHost: x\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


class Guest(StringTransport):
    """The console's end that a driver gives a viewer."""

    lost = aborted = False

    def loseConnection(self) -> None:
        self.lost = True

    def abortConnection(self) -> None:
        self.aborted = True


class Console:
    """One that the server has opened."""

    def __init__(self) -> None:
        self.guest = Guest()
        self.viewer: Any = None
        self.words = ""
        self.error: Exception | None = None
        self.touched = 0
        self.left_times = 0
        self.address = ""

    def take(self, text: str) -> Console:
        if text != "t":
            raise NotFound("There is no such console.")
        return self

    async def open(self, viewer: Any, address: str) -> None:
        if self.error is not None:
            raise self.error
        self.viewer, self.address = viewer, address
        viewer.makeConnection(self.guest)

    def ended(self) -> str:
        return self.words

    def touch(self) -> None:
        self.touched += 1

    def left(self) -> None:
        self.left_times += 1


class ConsoleCase(SiteTests):
    """Tests with an open console."""

    transport: Any

    def setUp(self) -> None:
        super().setUp()
        self.console = Console()

    def site(self, **options: Any) -> Any:
        return super().site(consoles=self.console, **options)

    def refused(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        (answer,) = self.ask(data)
        return answer

    def open(self, **options: Any) -> None:
        self.on = self.site(**options)
        self.channel, self.transport = self.connect(self.on)
        self.client = WSConnection(ConnectionType.CLIENT)
        self.channel.dataReceived(self.client.send(Request(host="x", target="/console?ticket=t")))
        (accepted,) = self.events()
        self.assertIsInstance(accepted, AcceptConnection)

    def events(self) -> list[Event]:
        self.client.receive_data(self.transport.value())
        self.transport.clear()
        return list(self.client.events())

    def send(self, *events: Event) -> None:
        self.channel.dataReceived(b"".join(self.client.send(event) for event in events))

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.5] * int(2 * seconds))

    def closed(self) -> tuple[int, str]:
        (event,) = [event for event in self.events() if isinstance(event, CloseConnection)]
        self.client.send(event.response())
        return event.code, event.reason or ""

    def leave(self, channel: Channel) -> None:
        channel.connectionLost(Failure(ConnectionDone()))
