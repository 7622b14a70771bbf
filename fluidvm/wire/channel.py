"""
Twisted's HTTP/1.1 channel, with bounds on what a client may send, hold, and how long it may take.

The channel keeps no timers of its own, which at thousands of clients would cost more than the calls: it has one deadline,
and the site looks at all of them once a second (see L{fluidvm.wire.site.Site}).

A client's headers are the same in each of its calls, and reading them costs more than the call. So the site remembers which
heads (all bytes up to the body) were those of a call that there was nothing to say about, and how long its body was. What
begins with one of them is a call; everything else, and each head's first time, goes through twisted.web's parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.web import http
from zope.interface import implementer

from fluidvm.wire import bounds
from fluidvm.wire.compression import GZIP, Gzipped
from fluidvm.wire.forms import Form
from fluidvm.wire.heads import origin_form, refusal
from fluidvm.wire.hosts import is_loopback
from fluidvm.wire.request import PLAIN, XML, Heads, Request
from fluidvm.wire.sending import Sender
from fluidvm.wire.websocket import Relay

if TYPE_CHECKING:
    from twisted.python.failure import Failure

NEVER = float("inf")
GOING_AWAY = 1001
"""WebSocket's status of an end that a server stopping causes (RFC 6455, section 7.4.1)."""


@implementer(IHalfCloseableProtocol)
class Channel(Sender):
    """
    One connection.

    @ivar deadline: when L{expire} is due, in the site's time.
    @ivar loopback: the client has reached the server by an address that is this machine's own to itself.
    @ivar discarding: what still comes in is thrown away: an answer that ends the connection is on its way.
    """

    deadline = NEVER
    discarding = False
    _refused = False
    _closing = False
    _begun = False
    _sent_all = False
    _head = b""
    _held: list[bytes] | None = None
    _missing = 0
    _relay: Relay | None = None
    _coming = 0
    loopback = False
    _heads: Heads

    def connectionMade(self) -> None:
        self._counted_as = self.address
        self._proxy = self.site.proxies.trusts(self._counted_as)
        self._secure = ISSLTransport.providedBy(self.transport)
        # A proxy's headers are its clients'.
        self.loopback = not self._proxy and is_loopback(getattr(self.transport.getHost(), "host", ""))
        self._heads = self.site.loopback_heads if self.loopback else self.site.heads
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
        self._held = None
        self.came_to_its_end()
        self._sent()
        if self._relay is not None:
            self._relay.gone()
        super().connectionLost(reason)

    def upgrade(self, request: Request, relay: Relay) -> None:
        """Hand the connection over: from here on it speaks WebSocket."""
        self.requests.remove(request)
        self.discarding = True  # for HTTP
        self._relay = relay
        early, self._dataBuffer = b"".join(self._dataBuffer), []
        self._networkProducer.resumeProducing()
        if early:
            relay.received(early)

    # What comes in.

    def dataReceived(self, data: bytes) -> None:
        if self.discarding or self._closing:
            if self._relay is not None and not self._closing:
                self._relay.received(data)
            return
        if self._held is not None:
            self._held.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                if not self.coming(len(data)):
                    self._held = None
                return
            data = b"".join(self._held)
            self._held = None
            self.came_to_its_end()
            self._begun = False
        while not (self._begun or self.paused or self._busyReceiving or self._buffer):
            self._begun = True
            end = data.find(b"\r\n\r\n") + 4
            head = data[:end]
            known = None if self._proxy else self._heads.get(head)
            if known is None:
                self._head = head if end <= bounds.LONGEST_HEAD and head.startswith(b"POST ") else b""
                self.deadline = self.site.seconds() + self.site.bounds.header_time
                break
            size = end + known[0]
            if len(data) < size:
                self._held = [data]
                self._missing = size - len(data)
                self.deadline = self.site.seconds() + self.site.bounds.body_time
                if not self.coming(len(data)):
                    self._held = None
                return
            self._called(data[end:size], known[1])
            if len(data) == size:
                return
            data = data[size:]
        super().dataReceived(data)

    def coming(self, size: int) -> bool:
        """
        Count bytes of a body that is still coming in.

        @return: whether they may be kept; if not, the connection ends.
        """
        if self.discarding:
            return False
        room = self.site.unfinished
        if self._coming + size > bounds.SMALL and not room.has_room(self._counted_as, size):
            self.came_to_its_end()
            self.end(503, b"The server holds too many requests that haven't come to their end: try again later.\n")
            return False
        self._coming += size
        room.take(self._counted_as, size)
        return True

    def came_to_its_end(self) -> None:
        """The body is whole, or isn't wanted any more."""
        if self._coming:
            size, self._coming = self._coming, 0
            self.site.unfinished.give(self._counted_as, size)

    def _called(self, body: bytes, form: Form) -> None:
        """Answer a call whose head is known; leaves all as twisted.web's parser does."""
        site = self.site
        answer = site.calls.call(body, self.peer, form)
        if not isinstance(answer, Deferred):
            self.send(200, XML, answer, GZIP if isinstance(answer, Gzipped) else b"")
            site.served(self.peer, b"POST", b"/RPC2", 200, len(answer))
            self._begun = False
            self.deadline = site.seconds() + (site.bounds.send_time if self._waitingForTransport else site.bounds.idle_time)
            return
        request = Request(self)
        request.method, request.uri, request.path, request.clientproto = b"POST", b"/RPC2", b"/RPC2", b"HTTP/1.1"
        request.site = site
        self.requests.append(request)
        self._handlingRequest = True
        self.setRawMode()
        self.deadline = NEVER
        request.answer_later(answer)

    def remember(self, request: Request, form: Form) -> None:
        """Learn the head of a request that is a call like all others."""
        headers = request.requestHeaders
        length = headers.getRawHeaders(b"Content-Length")
        if self._proxy:
            self._head = b""  # each request of a proxy's may be another client's
        if self._head and length is not None and self.persistent and not headers.hasHeader(b"Expect"):
            self.site.remember(self._heads, self._head, int(length[0]), form)
        self._head = b""

    def _begin(self) -> None:
        self._begun = True
        self.deadline = self.site.seconds() + self.site.bounds.header_time

    def lineReceived(self, line: bytes) -> None:
        if not self.discarding:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        if not self.discarding:
            super().rawDataReceived(data)
        elif self._relay is not None:
            self._relay.received(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """Method, target and version of the request whose body is coming in."""
        return self._command, self._path, self._version

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        headers = request.requestHeaders
        self._path, named = origin_form(self._path)
        refused = refusal(
            self._command, self._version, headers.getRawHeaders(b"Host", ()), named, self._transferDecoder is not None
        )
        if refused is not None:
            self.end(*refused)
            return
        if named is not None:
            headers.setRawHeaders(b"Host", [named])  # what the target names goes before what the header does
        self.persistent = self.checkPersistence(request, self._version)
        request.gotLength(self.length)
        self.deadline = self.site.seconds() + self.site.bounds.body_time
        expects = self._version == b"HTTP/1.1" and any(
            value.strip().lower() == b"100-continue" for value in request.requestHeaders.getRawHeaders(b"Expect", ())
        )
        if request.too_large and (expects or (self.length or 0) > bounds.MOST_DISCARDED):
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
        self.came_to_its_end()
        self.deadline = NEVER
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        self._begun = False
        self._head = b""
        now = self.site.seconds()
        if self.discarding:
            self.requests.remove(request)
            self.deadline = now + bounds.LINGER
            return
        limits = self.site.bounds
        self.deadline = now + (limits.send_time if self._waitingForTransport else limits.idle_time)
        super().requestDone(request)
        if self._buffer and not self._begun and self.persistent and not self.paused:
            self._begin()
        if self._sent_all:
            self.readConnectionLost()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # twisted.web's own closes while the client may still be sending, which can destroy the answer (RFC 9112, 9.6).
        self.end(400, b"This is no HTTP request.\n")

    def end(self, code: int, body: bytes) -> None:
        """Answer something that is no complete request, and end the connection."""
        if not self.discarding:
            self.discarding = True
            self.persistent = False
            self.send(code, PLAIN, body)
            self.deadline = self.site.seconds() + bounds.LINGER

    # What goes out: see also the base class.

    def pauseProducing(self) -> None:
        """
        Called when the client doesn't keep up with reading.

        Unlike twisted.web's own it also holds the requests that have come in already: a pipeline of small calls can ask for
        any amount of large answers.
        """
        if self._relay is not None:
            self._relay.pause()
            return
        self.paused = True
        super().pauseProducing()
        self._networkProducer.pauseProducing()

    def resumeProducing(self) -> None:
        """Called when the client has taken all that was written."""
        if self._relay is not None:
            self._relay.resume()
            return
        self._sent()
        super().resumeProducing()
        self.paused = False
        if not self._handlingRequest and not self._closing and not self.discarding:
            if not self._begun:
                self.deadline = self.site.seconds() + self.site.bounds.idle_time
            if self._buffer:
                self._begin()
                http.HTTPChannel.dataReceived(self, b"")
        self._networkProducer.resumeProducing()
        if self._sent_all:
            self.readConnectionLost()

    # How it ends.

    def readConnectionLost(self) -> None:
        """
        The client has sent its last byte, and may still read: whole requests are answered, then the connection ends.

        Over TLS there is no such thing: what ends one direction ends both.
        """
        self._sent_all = True
        if self._refused:
            return  # it is ending
        if self._relay is not None:
            self.transport.abortConnection()
        elif not (self._handlingRequest or self.paused or self._busyReceiving) or self.discarding:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Called where only the sending direction was ended: that is never done here."""

    def loseConnection(self) -> None:
        if not self._closing:
            self._closing = True
            self.deadline = self.site.seconds() + self.site.bounds.send_time
        super().loseConnection()

    def finish_up(self) -> None:
        """Close the connection now, or after the answer that is under way."""
        self.persistent = False
        if self._relay is not None:
            self._relay.finish(GOING_AWAY, "The server stops.")
        elif not self.requests and not self.discarding:
            self.loseConnection()

    def expire(self) -> None:
        """Called after the deadline."""
        if self._closing or self._waitingForTransport:
            self.deadline = NEVER
            self.transport.abortConnection()
        elif self._relay is not None:
            self._relay.look()
        elif self.discarding or not self._begun:
            self.loseConnection()
        elif self.requests or self._buffer or self._held:
            self.end(408, b"The request took too long to arrive.\n")
        else:
            self.loseConnection()
