"""
An HTTP/1.1 connection, with bounds on what a client may send and hold, and on how long it may take.

The channel keeps no timers of its own, which at thousands of clients would cost more than the calls. It has one deadline,
and the site looks at all of them once a second (see L{fluidvm.wire.site.Site}).
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
from fluidvm.wire.known_calls import KnownCalls
from fluidvm.wire.request import PLAIN, XML, Request
from fluidvm.wire.sending import Sender
from fluidvm.wire.states import State
from fluidvm.wire.websocket import Relay

if TYPE_CHECKING:
    from twisted.python.failure import Failure

NEVER = float("inf")
GOING_AWAY = 1001
"""WebSocket's status of an end that a server stopping causes (RFC 6455, section 7.4.1)."""

# A module's name is looked up faster than an enumeration's.
REFUSED, IDLE, RECEIVING, HOLDING = State.REFUSED, State.IDLE, State.RECEIVING, State.HOLDING
ANSWERING, DISCARDING, RELAYING, CLOSING = State.ANSWERING, State.DISCARDING, State.RELAYING, State.CLOSING


@implementer(IHalfCloseableProtocol)
class Channel(Sender):
    """
    One connection. L{State} has a table of its states and of the events that change them.

    @ivar state: what the connection does.
    @ivar deadline: when L{expire} is due, in the site's time.
    @ivar loopback: the client has reached the server by a loopback address of this machine.
    """

    state = IDLE
    deadline = NEVER
    loopback = False
    known_calls: KnownCalls
    _client_has_ended = False
    """The client has sent its last byte, and may still read."""
    _unfinished = 0
    """Bytes of a body that is coming in, as counted by L{coming}."""
    _relay: Relay | None = None

    @property
    def discarding(self) -> bool:
        """Whether nothing that comes in is taken for HTTP any more."""
        return self.state >= DISCARDING

    # The connection begins and ends.

    def connectionMade(self) -> None:
        self._counted_as = self.address
        self._proxy = self.site.proxies.trusts(self._counted_as)
        self._secure = ISSLTransport.providedBy(self.transport)
        # A proxy's headers are its clients'.
        self.loopback = not self._proxy and is_loopback(getattr(self.transport.getHost(), "host", ""))
        self._heads = self.site.loopback_heads if self.loopback else self.site.heads
        # Each request of a proxy may be another client's.
        self.known_calls = KnownCalls(None if self._proxy else self._heads)
        if not self.site.admit(self, self._counted_as):
            self.state = REFUSED
            self.transport.loseConnection()
            return
        super().connectionMade()
        self.deadline = self.site.seconds() + self.site.bounds.header_time

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.state is not REFUSED:
            self.site.forget(self, self._counted_as)
            self.state = CLOSING
        self.deadline = NEVER
        self.known_calls.drop()
        self.came_to_its_end()
        self._sent()
        if self._relay is not None:
            self._relay.gone()
        super().connectionLost(reason)

    def upgrade(self, request: Request, relay: Relay) -> None:
        """Hand the connection over: from here on it speaks WebSocket."""
        self.requests.remove(request)
        self.state = RELAYING
        self._relay = relay
        early = self.take_pipelined()
        self.read_on()
        if early:
            relay.received(early)

    # What comes in.

    def dataReceived(self, data: bytes) -> None:
        if self.state is HOLDING:
            whole = self.known_calls.add(data)
            if whole is None:
                self._count(len(data))
                return
            data = whole
            self.came_to_its_end()
            self.state = IDLE
        while self.state is IDLE and self.between_requests:
            self.state = RECEIVING
            call = self.known_calls.find(data)
            if call is None:
                self.deadline = self.site.seconds() + self.site.bounds.header_time
                break
            start, end, form = call
            if len(data) < end:
                self._hold(data, end - len(data))
                return
            self._answer_call(data[start:end], form)
            if len(data) == end:
                return
            data = data[end:]
        if self.state < DISCARDING:
            super().dataReceived(data)
        elif self.state is RELAYING:
            assert self._relay is not None
            self._relay.received(data)

    def _hold(self, data: bytes, missing: int) -> None:
        """A part of a known call has come. @param missing: bytes that haven't."""
        self.state = HOLDING
        self.deadline = self.site.seconds() + self.site.bounds.body_time
        self.known_calls.hold(data, missing)
        self._count(len(data))

    def _count(self, size: int) -> None:
        """Count bytes of a call that is held; if there is no room for them, it is refused."""
        if not self.coming(size):
            self.known_calls.drop()

    def _answer_call(self, body: bytes, form: Form) -> None:
        """Answer a known call. Afterwards all is as if the parser had read it."""
        site, peer = self.site, self.peer
        answer = site.calls.call(body, peer, form)
        if not isinstance(answer, Deferred):
            self.send(200, XML, answer, GZIP if isinstance(answer, Gzipped) else b"")
            site.served(peer, b"POST", b"/RPC2", 200, len(answer))
            if self.state is RECEIVING:
                self.state = IDLE
                self.deadline = site.seconds() + (site.bounds.send_time if self.client_is_slow else site.bounds.idle_time)
            return
        request = Request(self)
        request.method, request.uri, request.path, request.clientproto = b"POST", b"/RPC2", b"/RPC2", b"HTTP/1.1"
        request.site = site
        self.requests.append(request)
        self.hold_pipelined()
        self.deadline = NEVER
        if self.state is RECEIVING:
            self.state = ANSWERING
        request.answer_later(answer)

    def remember(self, request: Request, form: Form) -> None:
        """Learn the head of a request that is a call like all others."""
        headers = request.requestHeaders
        length = headers.getRawHeaders(b"Content-Length")
        head = self.known_calls.unknown
        if head and length is not None and self.persistent and not headers.hasHeader(b"Expect"):
            self.site.remember(self._heads, head, int(length[0]), form)
        self.known_calls.forget()

    def coming(self, size: int) -> bool:
        """
        Count bytes of a body that is still coming in.

        @return: whether they may be kept; if not, the connection ends.
        """
        if self.state >= DISCARDING:
            return False
        room = self.site.unfinished
        if self._unfinished + size > bounds.SMALL and not room.has_room(self._counted_as, size):
            self.came_to_its_end()
            self.end(503, b"The server holds too many incomplete requests; try again later.\n")
            return False
        self._unfinished += size
        room.take(self._counted_as, size)
        return True

    def came_to_its_end(self) -> None:
        """The body is complete, or isn't wanted any more."""
        if self._unfinished:
            size, self._unfinished = self._unfinished, 0
            self.site.unfinished.give(self._counted_as, size)

    # What the parser finds in it.

    def _begin_parsing(self) -> None:
        """A request begins in what has come in already."""
        self.state = RECEIVING
        self.deadline = self.site.seconds() + self.site.bounds.header_time

    def lineReceived(self, line: bytes) -> None:
        if self.state < DISCARDING:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        if self.state is RELAYING:
            assert self._relay is not None
            self._relay.received(data)
        elif self.state < DISCARDING:
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.bad_request()

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        headers = request.requestHeaders
        command, target, version = self.request_line
        target, named = origin_form(target)
        self.set_target(target)
        refused = refusal(command, version, headers.getRawHeaders(b"Host", ()), named, self.tells_length)
        if refused is not None:
            self.end(*refused)
            return
        if named is not None:
            headers.setRawHeaders(b"Host", [named])  # what the target names goes before what the header does
        self.persistent = self.checkPersistence(request, version)
        request.gotLength(self.length)
        self.deadline = self.site.seconds() + self.site.bounds.body_time
        expects = version == b"HTTP/1.1" and any(
            value.strip().lower() == b"100-continue" for value in headers.getRawHeaders(b"Expect", ())
        )
        if request.too_large and (expects or (self.length or 0) > bounds.MOST_DISCARDED):
            request.refuse_body()
        elif expects:
            self.send_continue()

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        """Tell whether the connection goes on after this request. RFC 9112, section 9.3; HTTP/1.0's never does."""
        values = b",".join(request.requestHeaders.getRawHeaders(b"Connection", ())).lower().split(b",")
        return version == b"HTTP/1.1" and b"close" not in [value.strip() for value in values] and not self.site.stopped

    def allContentReceived(self) -> None:
        if self.state >= DISCARDING:
            return
        self.came_to_its_end()
        self.state = ANSWERING
        self.deadline = NEVER
        super().allContentReceived()

    def bad_request(self) -> None:
        self.end(400, b"This is not a valid HTTP request.\n")

    def end(self, code: int, body: bytes) -> None:
        """Answer something that is no complete request, and end the connection."""
        if self.state < DISCARDING:
            self.discard()
            self.send(code, PLAIN, body)
            self.deadline = self.site.seconds() + bounds.LINGER

    def discard(self) -> None:
        """Look at nothing that comes in any more: the connection ends with the next answer."""
        self.state = DISCARDING
        self.persistent = False

    # What goes out: see also the base class.

    def requestDone(self, request: http.Request) -> None:
        """Called when an answer has been written."""
        self.known_calls.forget()
        now = self.site.seconds()
        if self.state >= DISCARDING:
            self.requests.remove(request)
            self.deadline = now + bounds.LINGER
            return
        limits = self.site.bounds
        self.state = IDLE
        self.deadline = now + (limits.send_time if self.client_is_slow else limits.idle_time)
        super().requestDone(request)
        if self.state is IDLE and self.unparsed and self.persistent and not self.paused:
            self._begin_parsing()
        if self._client_has_ended:
            self.readConnectionLost()

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
        self.stop_reading()

    def resumeProducing(self) -> None:
        """Called when the client has taken all that was written."""
        if self._relay is not None:
            self._relay.resume()
            return
        self._sent()
        super().resumeProducing()
        self.paused = False
        if self.state in (IDLE, RECEIVING, HOLDING):
            if self.state is IDLE:
                self.deadline = self.site.seconds() + self.site.bounds.idle_time
            if self.unparsed:
                self._begin_parsing()
                self.parse_unparsed()
        self.read_on()
        if self._client_has_ended:
            self.readConnectionLost()

    # How it ends.

    def readConnectionLost(self) -> None:
        """
        The client has sent its last byte, and may still read: complete requests are answered, then the connection ends.

        Over TLS there is no such thing: what ends one direction ends both.
        """
        self._client_has_ended = True
        if self._relay is not None:
            self.transport.abortConnection()
        elif self.state is DISCARDING or (self.state in (IDLE, RECEIVING, HOLDING) and not (self.paused or self.parsing)):
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Called where only the sending direction was ended: that is never done here."""

    def loseConnection(self) -> None:
        if self.state is not CLOSING:
            self.state = CLOSING
            self.deadline = self.site.seconds() + self.site.bounds.send_time
        super().loseConnection()

    def finish_up(self) -> None:
        """Close the connection now, or after the answer that is under way."""
        self.persistent = False
        if self._relay is not None:
            self._relay.finish(GOING_AWAY, "The server is stopping.")
        elif not self.requests and self.state < DISCARDING:
            self.loseConnection()

    def expire(self) -> None:
        """Called after the deadline."""
        if self.state is CLOSING or self.client_is_slow:
            self.deadline = NEVER
            self.transport.abortConnection()
        elif self._relay is not None:
            self._relay.look()
        elif self.state is HOLDING or (self.state in (RECEIVING, ANSWERING) and (self.requests or self.unparsed)):
            self.end(408, b"The request took too long to arrive.\n")
        else:
            self.loseConnection()
