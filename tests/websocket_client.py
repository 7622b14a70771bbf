"""A WebSocket client for tests."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)


class Refused(Exception):
    """The server answered with another status than 101: C{args} are that and the body."""


class Looker(Protocol):
    """
    One WebSocket.

    @ivar seen: all bytes that came.
    @ivar closed: code and words of the server's end of it, once it has come.
    @ivar lost: how often the connection was lost.
    """

    transport: Any

    def __init__(self, request: Request) -> None:
        self.opened: Deferred[Looker] = Deferred()
        self.seen = b""
        self.closed: tuple[int, str] | None = None
        self.pings = self.lost = 0
        self.subprotocol: str | None = None
        self._request = request
        self._status = 0
        self._body = b""
        self._socket = WSConnection(ConnectionType.CLIENT)

    def connectionMade(self) -> None:
        self.send(self._request)

    def send(self, event: Event) -> None:
        """Send anything."""
        self.transport.write(self._socket.send(event))

    def type(self, data: bytes) -> None:
        """Send bytes."""
        self.send(BytesMessage(data))

    def dataReceived(self, data: bytes) -> None:
        self._socket.receive_data(data)
        for event in self._socket.events():
            if isinstance(event, AcceptConnection):
                self.subprotocol = event.subprotocol
                self.opened.callback(self)
            elif isinstance(event, RejectConnection):
                self._status = event.status_code
            elif isinstance(event, RejectData):
                self._body += event.data
                if event.body_finished:
                    self.opened.errback(Failure(Refused(self._status, self._body.decode())))
            elif isinstance(event, BytesMessage):
                self.seen += event.data
            elif isinstance(event, Ping):
                self.pings += 1
                self.send(event.response())
            elif isinstance(event, CloseConnection):
                self.closed = event.code, event.reason or ""
                if self._socket.state is ConnectionState.REMOTE_CLOSING:
                    self.send(event.response())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1
        if not self.opened.called:
            self.opened.errback(reason)


async def look(port: int, path: str, **fields: Any) -> Looker:
    """
    Open a WebSocket on this machine.

    @param fields: more of the request.
    @raise Refused: the server doesn't.
    """
    looker = Looker(Request(host=f"127.0.0.1:{port}", target=path, **fields))
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), looker)
    try:
        return await looker.opened
    except Refused:
        looker.transport.loseConnection()
        raise
