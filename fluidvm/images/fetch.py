"""
Fetches a file from an image server, piece by piece.

The image server is not trusted: each phase has a limit on bytes and on time. twisted.web's client has no limit for the
response headers, so a guard counts the bytes on the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgentEndpointFactory
from zope.interface import implementer

from fluidvm.images.urls import ImageUrls
from fluidvm.model.faults import Unavailable

T = TypeVar("T")
REDIRECTS = 5
CONNECT_TIME = 30.0
"""Seconds that connecting to an image server may take."""
HEAD_TIME = 60.0
"""Seconds from the start of each request, redirects included, to the end of the response headers."""
HEAD_BYTES = 2**16
"""Maximum number of bytes up to the end of the response headers."""
SILENCE = 60.0
"""Seconds within which L{LEAST} more bytes of the file must arrive, or the rest of it."""
LEAST = 2**16
MOST_HELD = 4 * 2**20
"""Bytes that may be buffered."""


class Source:
    """
    One file to fetch.

    @param reactor: opens the connections.
    @param clock: for the timeouts.
    @param urls: the URLs that images may be fetched from.
    @param url: the URL of the file.
    """

    def __init__(self, reactor: Any, clock: IReactorTime, urls: ImageUrls, url: str) -> None:
        self._reactor = reactor
        self._clock = clock
        self._urls = urls
        self._url = url
        self._guard: _Guard | None = None
        self._body = _Body()
        self._count = 0

    def open(self) -> Deferred[int | None]:
        """
        Request the file. Redirects are followed only to URLs that are allowed as well.

        @return: the size of the file in bytes; C{None} if it is unknown.
        @raise Forbidden: the URL is not allowed.
        @raise Unavailable: the file can't be fetched; the message says why.
        """
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> int | None:
        self._url = self._urls.admit(self._url)
        for _ in range(REDIRECTS):
            response = await self._ask()
            places = response.headers.getRawHeaders(b"Location", [])
            if response.code in (301, 302, 303, 307, 308) and places:
                self.close()
                self._url = self._urls.follow(self._url, places[0].decode("ascii", "replace"))
                continue
            if response.code != 200:
                raise Unavailable(f"{self._url}: the server answered with HTTP status {response.code}.")
            response.deliverBody(self._body)
            return None if response.length is UNKNOWN_LENGTH else int(response.length)
        raise Unavailable(f"{self._url}: too many redirects.")

    async def _ask(self) -> Any:
        agent = Agent.usingEndpointFactory(self._reactor, _Endpoints(self._reactor, self._guarded))
        asking = agent.request(b"GET", self._url.encode("ascii"), Headers({b"User-Agent": [b"FluidVM"]}))
        asking.addCallback(self._answered)
        try:
            return await self._within(asking, HEAD_TIME, f"no answer within {HEAD_TIME:g} s")
        except (CancelledError, Unavailable):
            raise
        except Exception as error:
            if self._guard is not None and self._guard.flooded:
                words = f"the response headers are longer than {HEAD_BYTES // 1024} KiB"
            else:
                words = _words(error)
            raise Unavailable(f"{self._url}: {words}.") from None

    def _guarded(self, guard: _Guard) -> None:
        self._guard = guard

    def _answered(self, response: T) -> T:
        if self._guard is not None:
            self._guard.passed()
        return response

    def read(self) -> Deferred[bytes]:
        """
        Return the next bytes; none at the end of the file.

        @raise Unavailable: the connection broke, or the server is too slow.
        """
        return Deferred.fromCoroutine(self._read())

    async def _read(self) -> bytes:
        await self._within(self._body.more(), SILENCE, f"fewer than {LEAST // 1024} KiB arrived within {SILENCE:g} s")
        data = self._body.take()
        self._count += len(data)
        if not data and not self._body.complete:
            raise Unavailable(f"{self._url}: the connection broke after {self._count} bytes.")
        return data

    def close(self) -> None:
        """Close the connection. Can be repeated."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.abort()

    def _within(self, work: Deferred[T], seconds: float, late: str) -> Deferred[T]:
        """
        Return C{work} with a timeout. Cancelling it fails with a plain C{CancelledError}, which twisted.web would wrap.

        @param late: the message of the L{Unavailable} that a timeout fails with.
        """
        left = False

        def leave(_: Any = None) -> None:
            nonlocal left
            left = True
            if timer.active():
                timer.cancel()
            work.cancel()
            self.close()

        def end(result: Any) -> None:
            if not left:
                timer.cancel()
                outer.callback(result)

        def give_up() -> None:
            leave()
            outer.errback(Unavailable(f"{self._url}: {late}."))

        outer: Deferred[T] = Deferred(leave)
        timer = self._clock.callLater(seconds, give_up)
        work.addBoth(end)
        return outer


def _words(error: Exception) -> str:
    reasons = getattr(error, "reasons", None)  # twisted.web wraps the actual error
    return str(reasons[0].value if reasons else error).rstrip(".") or type(error).__name__


class _Body(Protocol):
    """
    Buffers the bytes of the file. While the buffer is full, the connection is paused.

    @ivar complete: whether all bytes have arrived.
    """

    transport: Any

    def __init__(self) -> None:
        self.complete = False
        self._held = bytearray()
        self._ended = False
        self._paused = False
        self._waiting: Deferred[None] | None = None

    def more(self) -> Deferred[None]:
        """Fires when at least L{LEAST} bytes, or the last ones, have arrived."""
        if self._ended or len(self._held) >= LEAST:
            return succeed(None)
        self._waiting = Deferred()
        return self._waiting

    def take(self) -> bytes:
        """Return the buffered bytes."""
        data, self._held = bytes(self._held), bytearray()
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        return data

    def dataReceived(self, data: bytes) -> None:
        self._held += data
        if len(self._held) >= MOST_HELD and not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        if len(self._held) >= LEAST:
            self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended = True
        self.complete = reason.check(ResponseDone) is not None
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)


class _Guard(ProtocolWrapper):  # type: ignore[misc]
    """
    Limits the bytes up to the end of the response headers.

    @ivar flooded: whether there were too many.
    """

    flooded = False
    _before = 0

    def dataReceived(self, data: bytes) -> None:
        if self.flooded:
            return
        super().dataReceived(data)
        if self._before >= 0:
            self._before += len(data)
            if self._before > HEAD_BYTES:
                self.flooded = True
                self.abort()

    def passed(self) -> None:
        """Called when the headers are complete."""
        self._before = -1

    def abort(self) -> None:
        """Close the connection now, without waiting for data in either direction."""
        transport: Any = self.transport
        transport.abortConnection()


@implementer(IStreamClientEndpoint)
class _GuardedEndpoint:
    def __init__(self, endpoint: Any, made: Callable[[_Guard], None]) -> None:
        self._endpoint = endpoint
        self._made = made

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect a protocol of C{factory}, behind a guard."""
        wrapping = WrappingFactory(factory)
        wrapping.noisy = False
        wrapping.protocol = _Guard

        def connected(guard: Any) -> Any:
            self._made(guard)
            return guard.wrappedProtocol

        connecting: Deferred[Any] = self._endpoint.connect(wrapping)
        return connecting.addCallback(connected)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Makes endpoints like those of twisted.web, behind a guard."""

    def __init__(self, reactor: Any, made: Callable[[_Guard], None]) -> None:
        self._reactor = reactor
        self._made = made

    def endpointForURI(self, uri: URI) -> _GuardedEndpoint:
        """Give the endpoint for a URI."""
        endpoint: Any = HostnameEndpoint(self._reactor, uri.host, uri.port, timeout=CONNECT_TIME)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(BrowserLikePolicyForHTTPS().creatorForNetloc(uri.host, uri.port), endpoint)
        return _GuardedEndpoint(endpoint, self._made)
