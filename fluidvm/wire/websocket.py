"""
Consoles over WebSocket (RFC 6455), by wsproto.

twisted.web's own WebSocket takes the connection out of the channel's hands, and with it out of its bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import h11
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.web import resource, server
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import RemoteProtocolError
from zope.interface import implementer

from fluidvm.engine.outcome import fault_of
from fluidvm.faults import NotFound
from fluidvm.wire import bounds
from fluidvm.wire.request import PLAIN

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from fluidvm.consoles import Console, Consoles

LOOK = 5.0
"""Seconds between two looks at whether a console may stay."""
PING = 10.0
"""Seconds between two pings: sessions end after 30 s of silence, and an open console keeps its own alive."""
SILENCE = 30.0
"""Seconds after which a client that answers no ping is gone."""
SUBPROTOCOL = "binary"
"""What noVNC's older versions ask for."""
LONGEST_REASON = 120
STATUSES = (403, 404, 409, 501, 503)


class ConsoleDoor(resource.Resource):  # type: ignore[misc]
    """What lies at C{/console}: a WebSocket for each ticket."""

    isLeaf = True

    def __init__(self, consoles: Consoles) -> None:
        super().__init__()
        self._consoles = consoles

    def render(self, request: Any) -> int:
        socket, wanted = WSConnection(ConnectionType.SERVER), None
        try:
            headers = [(name, value) for name, values in request.requestHeaders.getAllRawHeaders() for value in values]
            socket.initiate_upgrade_connection(headers, request.uri)
            wanted = next(event for event in socket.events() if isinstance(event, Request))
        except (RemoteProtocolError, h11.ProtocolError, UnicodeError, StopIteration):  # h11 reads the headers for wsproto
            pass
        if wanted is None or request.method != b"GET":
            words = b"A console is opened by WebSocket (RFC 6455), version 13.\n"
            request.answer(426, PLAIN, words, b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n")
            return server.NOT_DONE_YET
        Deferred.fromCoroutine(self._open(request, socket, wanted)).addErrback(
            lambda failure: request._log.failure("A console failed", failure)
        )
        return server.NOT_DONE_YET

    async def _open(self, request: Any, socket: WSConnection, wanted: Request) -> None:
        try:
            tickets = parse_qs(request.uri.partition(b"?")[2].decode("ascii", "replace")).get("ticket", [])
            if len(tickets) != 1:
                raise NotFound("A console's path has one ticket: ask get_vm_console for it.")
            console = self._consoles.take(tickets[0])
            address = request.channel.peer_of(request).address
            await console.open(Relay(request, socket, wanted, console), address)
        except Exception as error:
            fault = fault_of(error, "a console")
            status = fault.faultCode if fault.faultCode in STATUSES else 500
            request.answer(status, PLAIN, fault.faultString.encode() + b"\n")


@implementer(IPushProducer)
class _Typing:
    """What a client types, held back while the console takes no more."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def pauseProducing(self) -> None:
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """The console has ended: the relay says so to the client."""


class Relay(Protocol):
    """
    A console's viewer: passes on what goes between it and a client's WebSocket.

    @param request: what asked for it; when the console is connected, so is the WebSocket.
    """

    _log = Logger()
    transport: Any

    def __init__(self, request: Any, socket: WSConnection, wanted: Request, console: Console) -> None:
        self._request = request
        self._channel: Any = None
        self._socket = socket
        self._protocol = SUBPROTOCOL if SUBPROTOCOL in wanted.subprotocols else None
        self._console = console
        self._connected = False
        self._finishing = False
        self._waiting_since: float | None = None
        self._heard = False
        self._last_heard = self._next_ping = 0.0

    # The console's side.

    def connectionMade(self) -> None:
        channel = self._request.channel
        self._connected = True
        if channel is None:  # the client hasn't waited
            self.transport.loseConnection()
            return
        self._channel = channel
        site = channel.site
        self._last_heard = site.seconds()
        self._next_ping = self._last_heard + PING
        channel.transport.write(self._socket.send(AcceptConnection(subprotocol=self._protocol)))
        site.served(channel.peer_of(self._request), b"GET", self._request.path, 101, 0)
        self.transport.registerProducer(_Typing(channel.transport), True)
        channel.deadline = site.seconds() + LOOK
        channel.upgrade(self._request, self)

    def dataReceived(self, data: bytes) -> None:
        if self._channel is not None and not self._finishing:
            self._send(BytesMessage(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connected = False
        if self._channel is not None:
            self.finish(CloseReason.NORMAL_CLOSURE, "The console has ended.")

    # The client's.

    def received(self, data: bytes) -> None:
        """Take what the client sends."""
        self._heard = True
        self._socket.receive_data(data)
        for event in self._socket.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                typed = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
                if self._connected and not self._finishing:
                    self.transport.write(typed)
            elif isinstance(event, Ping):
                if not self._finishing:  # after its own end the server may send nothing more
                    self._send(event.response())
            elif isinstance(event, CloseConnection):
                if not self._finishing:
                    self._send(event.response())
                self._end()
                return

    def gone(self) -> None:
        """The client's connection has ended."""
        self._channel = None
        if self._connected:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def pause(self) -> None:
        """The client doesn't keep up."""
        self._waiting_since = self._channel.site.seconds()
        if self._connected:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """It does again."""
        self._waiting_since = None
        if self._connected:
            self.transport.resumeProducing()

    def _send(self, event: Any) -> None:
        self._channel.transport.write(self._socket.send(event))

    # Both.

    def finish(self, code: int, words: str) -> None:
        """End the WebSocket, in words; the client has a moment to answer."""
        if self._finishing or self._channel is None:
            return
        self._finishing = True
        self._send(CloseConnection(code, words[:LONGEST_REASON].encode("ascii", "replace").decode()))
        self._channel.deadline = self._channel.site.seconds() + bounds.LINGER
        if self._connected:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def _end(self) -> None:
        self._finishing = True
        self._channel.loseConnection()

    def look(self) -> None:
        """Called at the channel's deadline: see whether all may go on."""
        channel = self._channel
        site = channel.site
        now = site.seconds()
        if self._heard:
            self._heard = False
            self._last_heard = now
            self._console.touch()
        slow = self._waiting_since is not None and now - self._waiting_since > site.bounds.send_time
        if self._finishing or slow or now - self._last_heard > SILENCE:
            channel.deadline = float("inf")
            channel.transport.abortConnection()
            return
        words = self._console.ended()
        if words:
            self.finish(CloseReason.POLICY_VIOLATION, words)
            return
        channel.deadline = now + LOOK
        if now >= self._next_ping:
            self._next_ping = now + PING
            self._send(Ping())
