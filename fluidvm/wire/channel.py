"""
Twisted's HTTP/1.1 channel and request, with bounds on what a client may send, hold, and how long it may take.

The channel keeps no timers of its own, which at thousands of clients would cost more than the calls: it has one deadline,
and the site looks at all of them once a second (see L{fluidvm.wire.site.Site}).
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.web import http, server

from fluidvm.wire.peer import Peer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from fluidvm.wire.site import Site

PLAIN = b"text/plain; charset=utf-8"
NEVER = float("inf")

MOST_DISCARDED = 64 * 2**20
"""Bytes of a body over the limit that are read and thrown away so that a blocking client gets to reading the answer."""

LINGER = 5.0
"""Seconds that a client which is still sending has to read the answer before its connection is closed."""

_STATUS = {status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


@dataclass(frozen=True)
class Bounds:
    """
    What clients may do; sizes in bytes, times in seconds.

    @ivar max_request: the body of one request.
    @ivar connections: open at the same time.
    @ivar connections_per_address: open at the same time from one address.
    @ivar header_time: from a connection's or a request's first byte to the end of the headers.
    @ivar body_time: from there to the end of the body.
    @ivar idle_time: between two requests.
    @ivar send_time: for the client to take an answer that fills the socket's buffers.
    """

    max_request: int = 2**20
    connections: int = 20000
    connections_per_address: int = 1000
    header_time: float = 15.0
    body_time: float = 60.0
    idle_time: float = 75.0
    send_time: float = 120.0


class Request(server.Request):  # type: ignore[misc]
    """
    A request whose body stays in memory and within the limit. Nothing in it is taken for a form.

    @ivar body: the body, once it is complete; empty if it was too large.
    @ivar too_large: the body is over the limit.
    """

    body: bytes | bytearray = b""
    too_large = False
    channel: Channel
    site: Site
    _size = 0

    def gotLength(self, length: int | None) -> None:
        """Called before the body. @param length: in bytes, C{None} if it comes in chunks."""
        self.too_large = length is not None and length > self.channel.site.bounds.max_request

    def handleContentChunk(self, data: bytes) -> None:
        """Take a part of the body: twisted.web's own spools to disk, which blocks."""
        self._size += len(data)
        if self.too_large:
            if self._size > MOST_DISCARDED:
                self.refuse_body()
        elif self._size > self.channel.site.bounds.max_request:
            self.too_large = True
            self.body = b""
        elif not self.body:
            self.body = data
        else:
            if type(self.body) is bytes:
                self.body = bytearray(self.body)
            self.body += data

    def refuse_body(self) -> None:
        """Answer a request that is too large before its body has come; the connection ends with it."""
        channel = self.channel
        if channel is not None and not channel.discarding:
            channel.discarding = True
            channel.persistent = False
            self.requestReceived(*channel.request_line())

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Called when the request is complete. Unlike twisted.web's own it parses no query and no form."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    def process(self) -> None:
        """Hand the request to the resource at exactly its path."""
        site = self.site = self.channel.site
        try:
            resource = site.resources.get(self.path)
            if resource is None:
                self.answer(404, PLAIN, b"There is nothing here.\n")
            else:
                resource.render(self)
        except Exception:
            self._log.failure("A request failed")
            if not self.finished and not self._disconnected:
                self.answer(500, PLAIN, b"The server failed.\n")

    def answer(self, code: int, kind: bytes, body: bytes, headers: bytes = b"") -> None:
        """
        Answer the request and end it. A client that has gone is no error.

        @param code: HTTP's status.
        @param kind: the body's media type.
        @param headers: more header lines, each with its line end.
        """
        channel = self.channel
        if channel is None:
            return
        self.code, self.sentLength, self.startedWriting = code, len(body), 1
        if self.too_large and channel.discarding:
            channel.persistent = False
        channel.send(code, kind, body, headers, self.method == b"HEAD")
        channel.site.served(channel.peer, self.method, self.path, code, len(body))
        self.finished = 1
        self._cleanup()


class Channel(http.HTTPChannel):  # type: ignore[misc]
    """
    One connection.

    @ivar site: what it belongs to.
    @ivar deadline: when L{expire} is due, in the site's time.
    @ivar discarding: what still comes in is thrown away: an answer that ends the connection is on its way.
    """

    site: Site
    transport: Any
    deadline = NEVER
    discarding = False
    _refused = False
    _closing = False
    _begun = False
    _peer: Peer | None = None

    @property
    def address(self) -> str:
        """The client's address: how connections are counted."""
        # On a port of both families a client with IPv4 has an IPv6 address (RFC 4291, section 2.5.5.2): the same client.
        host: str = getattr(self.transport.getPeer(), "host", "local")
        return host.removeprefix("::ffff:") if "." in host else host

    @property
    def peer(self) -> Peer:
        """The client, as known once it has sent something (its certificate comes with the TLS handshake)."""
        if self._peer is None:
            tls = ISSLTransport.providedBy(self.transport)
            self._peer = Peer(self.address, tls, self.transport.getPeerCertificate() if tls else None)
        return self._peer

    def connectionMade(self) -> None:
        self._counted_as = self.address
        if not self.site.admit(self, self._counted_as):
            self._refused = self.discarding = True
            self.transport.loseConnection()
            return
        super().connectionMade()
        self.deadline = self.site.seconds() + self.site.bounds.header_time

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._refused:
            self.site.forget(self, self._counted_as)
        self.deadline = NEVER
        super().connectionLost(reason)

    # What comes in.

    def dataReceived(self, data: bytes) -> None:
        if self.discarding or self._closing:
            return
        if not self._begun:
            self._begin()
        super().dataReceived(data)

    def _begin(self) -> None:
        self._begun = True
        self.deadline = self.site.seconds() + self.site.bounds.header_time

    def lineReceived(self, line: bytes) -> None:
        if not self.discarding:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        if not self.discarding:
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """Method, target and version of the request whose body is coming in."""
        return self._command, self._path, self._version

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        self.persistent = self.checkPersistence(request, self._version)
        request.gotLength(self.length)
        self.deadline = self.site.seconds() + self.site.bounds.body_time
        expects = self._version == b"HTTP/1.1" and any(
            value.strip().lower() == b"100-continue" for value in request.requestHeaders.getRawHeaders(b"Expect", ())
        )
        if request.too_large and (expects or (self.length or 0) > MOST_DISCARDED):
            request.refuse_body()
        elif expects:
            self._send100Continue()

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        """Tell whether the connection goes on after this request. RFC 9112, section 9.3; HTTP/1.0's never does."""
        values = b",".join(request.requestHeaders.getRawHeaders(b"Connection", ())).lower().split(b",")
        return version == b"HTTP/1.1" and b"close" not in [value.strip() for value in values] and not self.site.stopped

    def allContentReceived(self) -> None:
        if self.discarding:
            return
        self.deadline = NEVER
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        self._begun = False
        now = self.site.seconds()
        if self.discarding:
            self.requests.remove(request)
            self.deadline = now + LINGER
            return
        bounds = self.site.bounds
        self.deadline = now + (bounds.send_time if self._waitingForTransport else bounds.idle_time)
        super().requestDone(request)
        if self._buffer and not self._begun and self.persistent:
            self._begin()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # twisted.web's own closes while the client may still be sending, which can destroy the answer (RFC 9112, 9.6).
        self.end(400, b"This is no HTTP request.\n")

    def end(self, code: int, body: bytes) -> None:
        """Answer something that is no complete request, and end the connection."""
        if not self.discarding:
            self.discarding = True
            self.persistent = False
            self.send(code, PLAIN, body)
            self.deadline = self.site.seconds() + LINGER

    # What goes out.

    def send(self, code: int, kind: bytes, body: bytes, headers: bytes = b"", head_only: bool = False) -> None:
        """
        Write one answer.

        @param headers: more header lines, each with its line end.
        @param head_only: leave out the body (the answer to HEAD).
        """
        head = b"%s%sContent-Type: %s\r\nContent-Length: %d\r\n%s%s\r\n" % (
            _STATUS[code], self.site.headers, kind, len(body), headers,
            b"" if self.persistent else b"Connection: close\r\n",
        )  # fmt: skip
        self.transport.writeSequence((head,) if head_only else (head, body))

    def pauseProducing(self) -> None:
        """
        Called when the client doesn't keep up with reading.

        Unlike twisted.web's own it also holds the requests that have come in already: a pipeline of small calls can ask for
        any amount of large answers.
        """
        self.paused = True
        super().pauseProducing()
        self._networkProducer.pauseProducing()

    def resumeProducing(self) -> None:
        """Called when the client has taken all that was written."""
        super().resumeProducing()
        self.paused = False
        if not self._handlingRequest and not self._closing and not self.discarding:
            self.deadline = self.site.seconds() + self.site.bounds.idle_time
            if self._buffer:
                self._begin()
                http.HTTPChannel.dataReceived(self, b"")
        self._networkProducer.resumeProducing()

    # How it ends.

    def loseConnection(self) -> None:
        if not self._closing:
            self._closing = True
            self.deadline = self.site.seconds() + self.site.bounds.send_time
        super().loseConnection()

    def finish_up(self) -> None:
        """Close the connection now, or after the answer that is under way."""
        self.persistent = False
        if not self.requests and not self.discarding:
            self.loseConnection()

    def expire(self) -> None:
        """Called after the deadline."""
        if self._closing or self._waitingForTransport:
            self.deadline = NEVER
            self.transport.abortConnection()
        elif self.discarding or not self._begun:
            self.loseConnection()
        elif self.requests or self._buffer:
            self.end(408, b"The request took too long to arrive.\n")
        else:
            self.loseConnection()


def text(request: Request, header: bytes) -> str:
    """A header's value, lower case, without parameters; empty where there is none."""
    values: Any = request.requestHeaders.getRawHeaders(header)
    return values[0].partition(b";")[0].strip().lower().decode("latin-1") if values else ""
