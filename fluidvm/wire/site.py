"""What is served over HTTP: XML-RPC, consoles, the bytes of images and disks, and the server's health."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, resource, server, xmlrpc

from fluidvm.access.consoles import Consoles
from fluidvm.access.transfers import Transfers
from fluidvm.engine.errors import fault_of
from fluidvm.model.faults import TooLarge
from fluidvm.wire.bounds import Bounds
from fluidvm.wire.channel import Channel
from fluidvm.wire.compression import Compressor
from fluidvm.wire.downloads import DISK_PATH, DiskDoor
from fluidvm.wire.forms import PLAIN_FORM, Form, form_of, to_utf8
from fluidvm.wire.hosts import Hosts
from fluidvm.wire.known_calls import Heads
from fluidvm.wire.peer import Peer
from fluidvm.wire.proxies import Proxies
from fluidvm.wire.request import PLAIN, XML, Request, text
from fluidvm.wire.unsent import Room, Unsent
from fluidvm.wire.uploads import UPLOADS, UploadDoor
from fluidvm.wire.websocket import ConsoleDoor
from fluidvm.wire.xmlrpc import render_fault

HEADERS = (
    b"Server: FluidVM\r\nDate: %s\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
    b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\n"
    b"Cache-Control: no-store\r\n"
)
XML_TYPES = ("text/xml", "application/xml")
MOST_HEADS = 1000
"""How many heads of calls are stored."""

SWEEP = 1.0
"""Seconds between two looks at the deadlines."""

Health = Callable[[], tuple[bool, dict[str, Any]]]


class IDispatch(Protocol):
    """What answers calls."""

    def dispatch(self, body: bytes, peer: Peer) -> bytes | Deferred[bytes]:
        """Answer one document with one document, at once or later."""


class Calls(xmlrpc.XMLRPC):  # type: ignore[misc]
    """
    C{/RPC2}: XML-RPC calls. The dispatcher parses, checks and answers them, not the base class.

    @param dispatcher: answers the bodies.
    @param compressor: compresses answers for clients that accept it; C{None}: nothing is compressed.
    """

    def __init__(self, dispatcher: IDispatch, bounds: Bounds, compressor: Compressor | None) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._compressor = compressor
        self._too_large = TooLarge(
            f"The request is larger than the limit of {bounds.max_request} bytes; send fewer or smaller calls."
        )

    def render(self, request: Request) -> int:
        if request.method != b"POST":
            request.answer(405, PLAIN, b"Send calls by POST.\n", b"Allow: POST\r\n")
        # RFC 7303 registers both types; the specification names the first. A program may leave it out; a web page that does
        # is not asked by its browser whether it may call (Fetch, "CORS-safelisted request-header"), but named in Origin.
        elif (kind := text(request, b"Content-Type")) not in XML_TYPES and (kind or _from_page(request)):
            request.answer(415, PLAIN, b"Send calls with Content-Type: text/xml.\n")
        elif (form := form_of(request.requestHeaders)) is None:
            request.answer(415, PLAIN, b"Unknown charset; send UTF-8.\n")
        elif text(request, b"Content-Encoding") not in ("", "identity"):
            request.answer(415, PLAIN, b"Send calls without Content-Encoding.\n", b"Accept-Encoding: identity\r\n")
        elif request.too_large:
            request.answer(200, XML, _document(self._too_large))
        else:
            request.channel.remember(request, form)
            body, request.body = bytes(request.body), b""
            request.answer_later(self.call(body, request.channel.peer_of(request), form))
        return server.NOT_DONE_YET

    def call(self, body: bytes, peer: Peer, form: Form = PLAIN_FORM) -> bytes | Deferred[bytes]:
        """
        Answer one call.

        @return: the document, perhaps L{Gzipped}; the Deferred never fails.
        """
        try:
            answer = self._dispatcher.dispatch(to_utf8(body, form.charset) if form.charset else body, peer)
        except Exception as error:
            return _document(error)
        compressor = self._compressor
        if isinstance(answer, Deferred):
            answer.addErrback(_failed)
            if form.gzip and compressor is not None:
                answer.addCallback(compressor.compress, peer.address)
        elif form.gzip and compressor is not None:
            return compressor.compress(answer, peer.address)
        return answer


def _from_page(request: Request) -> bool:
    return any(request.requestHeaders.hasHeader(name) for name in (b"Origin", b"Sec-Fetch-Site"))


def _document(error: Exception) -> bytes:
    fault = fault_of(error, "a call")
    return render_fault(fault.faultCode, fault.faultString)


def _failed(failure: Failure) -> bytes:
    error = failure.value
    return _document(error if isinstance(error, Exception) else RuntimeError(repr(error)))


class HealthReport(resource.Resource):  # type: ignore[misc]
    """
    C{/health}: whether the server works. The answer is 200 or 503, and a JSON object with the reasons.

    @param health: returns whether the server works, and the JSON object.
    """

    isLeaf = True
    _log = Logger()

    def __init__(self, health: Health) -> None:
        super().__init__()
        self._health = health

    def render(self, request: Request) -> int:
        if request.method not in (b"GET", b"HEAD"):
            request.answer(405, PLAIN, b"Use GET to read the server's health.\n", b"Allow: GET, HEAD\r\n")
            return server.NOT_DONE_YET
        try:
            well, report = self._health()
            body = json.dumps(report).encode() + b"\n"
        except Exception:
            self._log.failure("The health check failed")
            well, body = False, b'{"status": "failing", "reasons": ["the health check failed"]}\n'
        request.answer(200 if well else 503, b"application/json", body)
        return server.NOT_DONE_YET


class Site(server.Site):  # type: ignore[misc]
    """
    The factory of connections. It counts them, and calls those that are past their deadline.

    Its attributes are those of L{fluidvm.wire.request.Front}.
    """

    protocol = Channel  # type: ignore[assignment]
    requestFactory = Request
    timeOut = None
    _log = Logger()

    def __init__(
        self,
        calls: Calls,
        health: HealthReport,
        bounds: Bounds,
        proxies: Proxies,
        hosts: Hosts,
        reactor: Any,
        access_log: bool,
        consoles: Consoles | None = None,
        transfers: Transfers | None = None,
        unsent: Unsent | None = None,
    ) -> None:
        super().__init__(resource.Resource(), reactor=reactor, timeout=None)
        self.calls = calls
        self.resources: dict[bytes, resource.Resource] = {b"/RPC2": calls, b"/health": health}
        self.takers: dict[tuple[bytes, bytes], UploadDoor] = {}
        self._disks: DiskDoor | None = None
        if consoles is not None:
            self.resources[b"/console"] = ConsoleDoor(consoles)
        if transfers is not None:
            uploads = UploadDoor(transfers)
            self.resources[UPLOADS] = self.takers[b"PUT", UPLOADS] = uploads
            self._disks = DiskDoor(transfers)
        self.heads: Heads = {}
        self.loopback_heads: Heads = {}
        self.bounds = bounds
        self.proxies = proxies
        self.hosts = hosts
        self.stopped = False
        self.unfinished = Room(bounds.unfinished)
        self.unsent = Unsent(self.reactor) if unsent is None else unsent
        self.seconds: Callable[[], float] = self.reactor.seconds
        self._access_log = access_log
        self._channels: dict[Channel, None] = {}
        self._by_address: Counter[str] = Counter()
        self._sweeping: IDelayedCall | None = None
        self._refused = 0
        self._refused_last = ""
        self._date()

    def _date(self) -> None:
        self.headers = HEADERS % http.datetimeToString(time.time())
        # Over TLS, browsers are to come back over TLS only (RFC 6797).
        self.tls_headers = self.headers + b"Strict-Transport-Security: max-age=31536000\r\n"

    def at(self, path: bytes) -> resource.Resource | None:
        """Return the resource at a path, or C{None}."""
        found = self.resources.get(path)
        if found is None and DISK_PATH.fullmatch(path):
            return self._disks
        return found

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS may negotiate: not HTTP/2, as its connections would have no bounds."""
        return [b"http/1.1"]

    # The base class keeps a log file and a timer for its date.

    def startFactory(self) -> None:
        self.stopped = False

    def stopFactory(self) -> None:
        self.stopped = True
        self.heads.clear()
        self.loopback_heads.clear()
        for channel in tuple(self._channels):
            channel.finish_up()

    def log(self, request: http.Request) -> None:
        """Nothing: see L{served}."""

    def served(self, peer: Peer, method: bytes, path: bytes, code: int, size: int) -> None:
        """Log an answer that has been written. @param size: of its body, in bytes."""
        if self._access_log:
            self._log.info(
                "{address} {method} {path} {code} {size}",
                address=peer.address,
                method=method.decode("latin-1"),
                path=path.decode("latin-1"),
                code=code,
                size=size,
            )

    def remember(self, heads: Heads, head: bytes, length: int, form: Form) -> None:
        """Store the head of an ordinary call. @param length: of the body that follows it, in bytes."""
        if not self.stopped:
            if len(heads) >= MOST_HEADS:
                heads.clear()
            heads[head] = length, form

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._channels)

    def connections_of(self, address: str) -> int:
        """How many connections a client address has open."""
        return self._by_address[address]

    def admit(self, channel: Channel, address: str) -> bool:
        """Count a new connection. @return: whether it is accepted; if not, it is not counted."""
        bounds = self.bounds
        crowded = self._by_address[address] >= bounds.connections_per_address and not self.proxies.trusts(address)
        if crowded or len(self._channels) >= bounds.connections:
            self._refused += 1
            self._refused_last = address
            return False
        self._channels[channel] = None
        self._by_address[address] += 1
        if self._sweeping is None:
            self._date()
            self._sweeping = self.reactor.callLater(SWEEP, self._sweep)
        return True

    def forget(self, channel: Channel, address: str) -> None:
        """Count a connection no longer: it has ended."""
        if self._channels.pop(channel, self) is self:
            return
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        if not self._channels and self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _sweep(self) -> None:
        self._sweeping = self.reactor.callLater(SWEEP, self._sweep)
        self._date()
        if self._refused:  # one line for all, as refused clients try again
            self._log.warn(
                "Refused {count} connections, the last from {address}: too many are open",
                count=self._refused,
                address=self._refused_last,
            )
            self._refused = 0
        now = self.seconds()
        for channel in [channel for channel in self._channels if channel.deadline <= now]:
            channel.expire()


def make_site(
    dispatcher: IDispatch,
    health: Health,
    *,
    reactor: IReactorTime | None = None,
    max_request: int = Bounds.max_request,
    connections: int = Bounds.connections,
    connections_per_address: int = Bounds.connections_per_address,
    header_time: float = Bounds.header_time,
    body_time: float = Bounds.body_time,
    idle_time: float = Bounds.idle_time,
    send_time: float = Bounds.send_time,
    access_log: bool = False,
    proxies: Proxies | None = None,
    hosts: Iterable[str] = (),
    consoles: Consoles | None = None,
    transfers: Transfers | None = None,
    unsent: Unsent | None = None,
    compressor: Compressor | None = None,
) -> Site:
    """
    Make the factory to listen with.

    @param dispatcher: answers the bodies of calls.
    @param health: returns whether the server works, and a JSON object with the reasons.
    @param reactor: the clock; default: the global reactor.
    @param access_log: log a line for every answer.
    @param proxies: which proxies are trusted to name the client; default: none.
    @param hosts: names that loopback clients may use for the server.
    @param consoles: opens consoles; default: consoles are not served.
    @param transfers: admits uploads and downloads; default: they are not served.
    @param unsent: counts answers that clients have not read; the dispatcher has the same; default: a new one.
    @param compressor: compresses answers for clients that accept it; default: nothing is compressed.

    The other parameters are those of L{Bounds}.
    """
    bounds = Bounds(max_request, connections, connections_per_address, header_time, body_time, idle_time, send_time)
    proxies = proxies or Proxies((), "forwarded")
    return Site(
        Calls(dispatcher, bounds, compressor),
        HealthReport(health),
        bounds,
        proxies,
        Hosts(hosts),
        reactor,
        access_log,
        consoles,
        transfers,
        unsent,
    )
