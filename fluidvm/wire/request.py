"""An HTTP request whose body is in memory and within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fluidvm.wire.bounds import MOST_DISCARDED, Bounds
from fluidvm.wire.compression import GZIP, Gzipped
from fluidvm.wire.forms import Form
from fluidvm.wire.hosts import Hosts
from fluidvm.wire.known_calls import Heads
from fluidvm.wire.peer import Peer
from fluidvm.wire.proxies import Proxies
from fluidvm.wire.twisted_internals import ParsedRequest
from fluidvm.wire.unsent import Room, Unsent

XML = b"text/xml"
PLAIN = b"text/plain; charset=utf-8"


class Answers(Protocol):
    """What answers the bodies of calls."""

    def call(self, body: bytes, peer: Peer, form: Form) -> bytes | Deferred[bytes]:
        """Answer one call. @return: the document, perhaps L{Gzipped}; the Deferred never fails."""


class Front(Protocol):
    """
    What connections need from the site that they belong to.

    @ivar bounds: for all of them.
    @ivar calls: what answers calls.
    @ivar heads: the heads that L{remember} has stored.
    @ivar loopback_heads: the same for loopback connections, where C{hosts} must admit the header Host.
    @ivar tls_headers: the same over TLS.
    @ivar takers: what takes bodies of any length, by method and path.
    @ivar headers: the header lines of all answers.
    @ivar proxies: which proxies are trusted to name the client.
    @ivar unfinished: counts the bytes of incomplete requests.
    @ivar unsent: counts the bytes of answers that clients have not read.
    @ivar stopped: no port listens any more; each connection ends after its current answer.
    """

    bounds: Bounds
    calls: Answers
    heads: Heads
    loopback_heads: Heads
    hosts: Hosts
    headers: bytes
    tls_headers: bytes
    proxies: Proxies
    unfinished: Room
    unsent: Unsent
    stopped: bool

    @property
    def takers(self) -> Mapping[tuple[bytes, bytes], Any]: ...

    def at(self, path: bytes) -> Any:
        """Return the resource at a path, or C{None}."""

    def seconds(self) -> float:
        """The time that deadlines are in."""

    def admit(self, channel: Any, address: str) -> bool:
        """Count a new connection. @return: whether it is accepted; if not, it is not counted."""

    def forget(self, channel: Any, address: str) -> None:
        """Count a connection no longer: it has ended."""

    def remember(self, heads: Heads, head: bytes, length: int, form: Form) -> None:
        """Store the head of an ordinary call. @param length: of the body that follows it, in bytes."""

    def served(self, peer: Peer, method: bytes, path: bytes, code: int, size: int) -> None:
        """Log an answer that has been written. @param size: of its body, in bytes."""


class Request(ParsedRequest):
    """
    A request whose body stays in memory and within the limit. It is never parsed as a form.

    @ivar body: the body, once it is complete; empty if it was too large.
    @ivar too_large: the body is larger than the limit, or is not wanted.
    @ivar sink: takes the body instead, piece by piece. C{notifyFinish} tells it when the request ends.
    """

    body: bytes | bytearray = b""
    too_large = False
    sink: Any = None
    site: Any
    log = Logger()
    _size = 0

    def gotLength(self, length: int | None) -> None:
        """Called before the body. @param length: in bytes, C{None} if it comes in chunks."""
        channel = self.channel
        command, uri, _ = channel.request_line
        taker = channel.site.takers.get((command, uri.partition(b"?")[0]))
        if taker is not None and self._misnamed():
            self.too_large = True  # nothing of it is wanted: see L{process}
            return
        if taker is not None:
            self.sink = taker.begin(self, uri, length)
            self.too_large = self.sink.refusal is not None
            return
        self.too_large = length is not None and length > channel.site.bounds.max_request

    def handleContentChunk(self, data: bytes) -> None:
        """Take a part of the body: twisted.web's own spools to disk, which blocks."""
        self._size += len(data)
        if self.too_large:
            if self._size > MOST_DISCARDED:
                self.refuse_body()
        elif self.sink is not None:
            self.sink.take(data)
        elif self._size > self.channel.site.bounds.max_request:
            self.too_large = True
            self.body = b""
            self.channel.came_to_its_end()
        elif not self.channel.coming(len(data)):
            self.body = b""
        elif not self.body:
            self.body = data
        else:
            if type(self.body) is bytes:
                self.body = bytearray(self.body)
            self.body += data

    def _misnamed(self) -> bool:
        channel = self.channel
        return bool(channel.loopback) and not channel.site.hosts.admits(_first(self, b"Host"))

    def refuse_body(self) -> None:
        """Answer a request before its body has arrived, and end the connection."""
        channel = self.channel
        if channel is not None and not channel.discarding:
            channel.discard()
            self.requestReceived(*channel.request_line)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Called when the request is complete. Unlike twisted.web's own it parses no query and no form."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    def process(self) -> None:
        """Hand the request to the resource at exactly its path."""
        site = self.site = self.channel.site
        try:
            resource = site.at(self.path)
            if self._misnamed():
                self.answer(421, PLAIN, b"Unknown Host; add it to the option --hosts.\n")
            elif resource is None:
                self.answer(404, PLAIN, b"Nothing is served at this path; send calls to /RPC2.\n")
            else:
                resource.render(self)
        except Exception:
            self.log.failure("A request failed")
            if not self.over:
                self.answer(500, PLAIN, b"The server failed; its log says why.\n")

    def answer(self, code: int, kind: bytes, body: bytes, headers: bytes = b"") -> None:
        """
        Answer the request and end it. If the client has disconnected, nothing happens.

        @param code: HTTP's status.
        @param kind: the body's media type.
        @param headers: more header lines, each with its line end.
        """
        channel = self.channel
        if channel is None:
            return
        channel.send(code, kind, body, headers, self.method == b"HEAD")
        self.end(code, len(body))

    def end(self, code: int, size: int) -> None:
        """Call this after the whole answer was written. @param size: of its body, in bytes."""
        channel = self.channel
        channel.site.served(channel.peer_of(self), self.method, self.path, code, size)
        self.conclude(code, size)

    def answer_later(self, document: bytes | Deferred[bytes]) -> None:
        """
        Answer a call with a document that is ready now or later.

        The Deferred is not cancelled when the client disconnects: its call may be half done, and the client may ask for the
        outcome later. The longest query waits for 25 s.

        @param document: a Deferred must not fail.
        """
        if isinstance(document, Deferred):
            document.addCallback(self.answer_call)
            document.addErrback(lambda failure: self.log.failure("An answer was lost", failure))
        else:
            self.answer_call(document)

    def answer_call(self, document: bytes) -> None:
        """Answer a call with a document, perhaps a compressed one."""
        self.answer(200, XML, document, GZIP if isinstance(document, Gzipped) else b"")


def text(request: Request, header: bytes) -> str:
    """A header's value, lower case, without parameters; empty where there is none."""
    return _first(request, header).partition(";")[0].strip().lower()


def _first(request: Request, header: bytes) -> str:
    values: Any = request.requestHeaders.getRawHeaders(header)
    return values[0].decode("latin-1") if values else ""
