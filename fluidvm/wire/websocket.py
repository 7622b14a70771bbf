"""
Consoles over WebSocket (RFC 6455), by wsproto.

The WebSocket of twisted.web would take the connection from the channel, which then could not enforce its bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import h11
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.web import resource, server
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import RemoteProtocolError
from zope.interface import implementer

from fluidvm.engine.errors import fault_of
from fluidvm.model.faults import NotFound
from fluidvm.wire import bounds
from fluidvm.wire.request import PLAIN

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from fluidvm.access.consoles import Console, Consoles

LOOK = 5.0
"""Seconds between two checks whether a console may stay open."""
PING = 10.0
"""Seconds between two pings: sessions end after 30 s of silence, and an open console keeps its own alive."""
SILENCE = 30.0
"""Seconds after which a client that answers no ping is disconnected."""
SUBPROTOCOL = "binary"
"""Older versions of noVNC ask for it."""
LONGEST_REASON = 120
MOST_AT_ONCE = 200
"""How many messages of one client are handled in one turn of the reactor: some milliseconds."""
TALKING = (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING)
STATUSES = (403, 404, 409, 501, 503)


class ConsoleDoor(resource.Resource):  # type: ignore[misc]
    """C{/console}: a WebSocket for each ticket."""

    isLeaf = True
    _log = Logger()

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
            words = b"Open a console by WebSocket (RFC 6455), version 13.\n"
            request.answer(426, PLAIN, words, b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n")
            return server.NOT_DONE_YET
        Deferred.fromCoroutine(self._open(request, socket, wanted)).addErrback(
            lambda failure: self._log.failure("A console failed", failure)
        )
        return server.NOT_DONE_YET

    async def _open(self, request: Any, socket: WSConnection, wanted: Request) -> None:
        try:
            tickets = parse_qs(request.uri.partition(b"?")[2].decode("ascii", "replace")).get("ticket", [])
            if len(tickets) != 1:
                raise NotFound("Open a console with exactly one ticket; get_vm_console returns it.")
            console = self._consoles.take(tickets[0])
            address = request.channel.peer_of(request).address
            await console.open(Relay(request, socket, wanted, console), address)
        except Exception as error:
            fault = fault_of(error, "a console")
            status = fault.faultCode if fault.faultCode in STATUSES else 500
            request.answer(status, PLAIN, fault.faultString.encode() + b"\n")


@implementer(IPushProducer)
class _Typing:
    """Stops reading from the client while the console accepts no input."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def pauseProducing(self) -> None:
        self._relay.hold()

    def resumeProducing(self) -> None:
        self._relay.go_on()

    def stopProducing(self) -> None:
        """Nothing: the relay tells the client that the console has ended."""


class Relay(Protocol):
    """
    Passes bytes between a console and the WebSocket of its viewer.

    Each side is read only while the other one keeps up, as the answers to a client's pings go into the same buffer as the
    bytes of the console. If a side reads nothing for C{send_time}, the relay ends.

    @param request: the request that opens it. The WebSocket is accepted once the console is connected.
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
        self._client_stuck: float | None = None
        """Since when the client hasn't read all that was sent to it."""
        self._console_stuck: float | None = None
        """Since when the console hasn't read all that was typed."""
        self._backlog = False
        """Some of what the client has sent isn't handled yet."""
        self._working: IDelayedCall | None = None
        self._abandoning: IDelayedCall | None = None
        self._heard = False
        self._last_heard = self._next_ping = 0.0

    # The console's side.

    def connectionMade(self) -> None:
        channel = self._request.channel
        self._connected = True
        if channel is None:  # the client has disconnected meanwhile
            self.transport.loseConnection()
            return
        self._channel = channel
        site = channel.site
        self._last_heard = site.seconds()
        self._next_ping = self._last_heard + PING
        channel.transport.write(self._socket.send(AcceptConnection(subprotocol=self._protocol)))
        site.served(channel.peer_of(self._request), b"GET", self._request.path, 101, 0)
        self.transport.registerProducer(_Typing(self), True)
        channel.deadline = site.seconds() + LOOK
        channel.upgrade(self._request, self)

    def dataReceived(self, data: bytes) -> None:
        if self._channel is not None and not self._finishing:
            self._send(BytesMessage(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connected = False
        self._console.left()
        if self._abandoning is not None and self._abandoning.active():
            self._abandoning.cancel()
        if self._channel is not None:
            self.finish(CloseReason.NORMAL_CLOSURE, "The console has ended.")

    def hold(self) -> None:
        """Called when the console doesn't keep up, and again with each write."""
        if self._console_stuck is None and self._channel is not None:
            self._console_stuck = self._channel.site.seconds()
            self._steer()

    def go_on(self) -> None:
        """Called when it keeps up again."""
        self._console_stuck = None
        self._steer()

    def _leave(self) -> None:
        """Disconnect from the console. It has C{LINGER} seconds to read what was typed."""
        if self._connected and self._abandoning is None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
            self._abandoning = self._request.site.reactor.callLater(bounds.LINGER, self._abandon)

    def _abandon(self) -> None:
        if self._connected:
            self.transport.abortConnection()

    # The client's.

    def received(self, data: bytes) -> None:
        """Called with bytes from the client."""
        if self._channel is None or self._socket.state not in TALKING:
            return
        self._heard = True
        self._socket.receive_data(data)
        self._work()

    def _work(self) -> None:
        """
        Handle what the client has sent: some of it now, the rest in the next turns of the reactor.

        One read from the network can bring ten thousand messages, which take a quarter of a second.
        """
        self._backlog = False
        left = MOST_AT_ONCE
        for event in self._socket.events() if self._channel is not None else ():
            if isinstance(event, CloseConnection):
                self._closed(event)
                return
            if self._finishing:
                pass
            elif isinstance(event, (TextMessage, BytesMessage)):
                if self._connected and event.data:
                    self.transport.write(event.data.encode() if isinstance(event, TextMessage) else bytes(event.data))
            elif isinstance(event, Ping):
                self._send(event.response())
            left -= 1
            if not left or self._stuck:
                self._backlog = True
                break
        self._steer()

    @property
    def _stuck(self) -> bool:
        return self._client_stuck is not None or self._console_stuck is not None

    def _steer(self) -> None:
        """Read from the client, or pause."""
        channel = self._channel
        if channel is None or channel.transport.disconnecting:
            return
        if self._stuck or self._backlog:
            channel.transport.pauseProducing()
        else:
            channel.transport.resumeProducing()
        if self._backlog and not self._stuck and (self._working is None or not self._working.active()):
            self._working = channel.site.reactor.callLater(0, self._work)

    def _closed(self, event: CloseConnection) -> None:
        """The client has closed the WebSocket, or violated the protocol."""
        if not self._finishing:
            self._send(event.response())
        self._finishing = True
        self._channel.loseConnection()

    def gone(self) -> None:
        """Called when the client's connection has ended."""
        self._channel = None
        if self._working is not None and self._working.active():
            self._working.cancel()
        self._leave()

    def pause(self) -> None:
        """Called when the client doesn't keep up, and again with each write."""
        if self._client_stuck is None:
            self._client_stuck = self._channel.site.seconds()
            if self._connected:
                self.transport.pauseProducing()
            self._steer()

    def resume(self) -> None:
        """Called when it keeps up again."""
        self._client_stuck = None
        if self._connected:
            self.transport.resumeProducing()
        self._steer()

    def _send(self, event: Any) -> None:
        self._channel.transport.write(self._socket.send(event))

    # Both.

    def finish(self, code: int, words: str) -> None:
        """Close the WebSocket with a reason. The client has C{LINGER} seconds to answer."""
        if self._finishing or self._channel is None:
            return
        self._finishing = True
        self._send(CloseConnection(code, words[:LONGEST_REASON].encode("ascii", "replace").decode()))
        self._channel.deadline = self._channel.site.seconds() + bounds.LINGER
        self._console_stuck = None
        self._steer()
        self._leave()

    def look(self) -> None:
        """Called at the channel's deadline: check whether the console may stay open."""
        channel = self._channel
        site = channel.site
        now = site.seconds()
        if self._heard or self._stuck:  # while the client isn't read, it can't be heard
            self._heard = False
            self._last_heard = now
            self._console.touch()
        slow = self._client_stuck is not None and now - self._client_stuck > site.bounds.send_time
        if self._finishing or slow or now - self._last_heard > SILENCE:
            channel.deadline = float("inf")
            channel.transport.abortConnection()
            return
        words = self._console.ended()
        if words:
            self.finish(CloseReason.POLICY_VIOLATION, words)
            return
        if self._console_stuck is not None and now - self._console_stuck > site.bounds.send_time:
            self.finish(CloseReason.TRY_AGAIN_LATER, "The console accepts no more input.")
            return
        channel.deadline = now + LOOK
        if now >= self._next_ping and self._client_stuck is None:
            self._next_ping = now + PING
            self._send(Ping())
