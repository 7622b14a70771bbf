"""Servers of images that do what they please, on real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer


class HostileServer(Factory):
    """
    Says what it is told to, however it is asked.

    @ivar answer: what it does with a connection once a request has come.
    @ivar asked: the requests.
    @ivar open: the connections that are open.
    @ivar sent: bytes of L{endless} answers, in all.
    """

    noisy = False

    def __init__(self, answer: Callable[[Any], None]) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.open: set[Any] = set()
        self.sent = 0
        self.port: Any = reactor.listenTCP(0, self, interface="127.0.0.1")  # type: ignore[arg-type]
        self.base = f"http://127.0.0.1:{self.port.getHost().port}/to/"  # type: ignore[attr-defined]

    def buildProtocol(self, address: Any) -> Protocol:
        protocol = _Connection()
        protocol.factory = self
        return protocol

    async def stop(self) -> None:
        """Stop, with all connections."""
        await self.port.stopListening()
        for connection in list(self.open):
            connection.transport.abortConnection()


class _Connection(Protocol):
    factory: HostileServer
    transport: Any

    def __init__(self) -> None:
        self._head = b""

    def connectionMade(self) -> None:
        self.factory.open.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.open.discard(self)

    def dataReceived(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self.factory.asked.append(self._head)
            self._head = b""
            self.factory.answer(self.transport)


def says(data: bytes) -> Callable[[Any], None]:
    """An answer that is these bytes, and then nothing."""
    return lambda transport: transport.write(data)


def whole(data: bytes) -> Callable[[Any], None]:
    """A file, as it should be."""
    return says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))


def endless(server: Any, head: bytes, piece: bytes) -> Callable[[Any], None]:
    """An answer without end, as fast as it is taken."""

    def answer(transport: Any) -> None:
        transport.write(head)
        transport.registerProducer(_Endless(server, transport, piece), False)

    return answer


@implementer(IPullProducer)
class _Endless:
    def __init__(self, server: HostileServer, transport: Any, piece: bytes) -> None:
        self._server = server
        self._transport = transport
        self._piece = piece

    def resumeProducing(self) -> None:
        self._server.sent += len(self._piece)
        self._transport.write(self._piece)

    def stopProducing(self) -> None:
        """The client has gone."""
