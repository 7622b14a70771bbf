"""The sending half of a connection: who its client is, and answers that are written to it and counted."""

from __future__ import annotations

from http import HTTPStatus

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import ISSLTransport

from fluidvm.wire import bounds
from fluidvm.wire.peer import Peer
from fluidvm.wire.request import Front, Request
from fluidvm.wire.twisted_internals import Parser

LARGE = 2**17
"""Bytes of an answer that is worth a system call to save a copy of it."""

_STATUS = {status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


class Sender(Parser):
    """
    The base of L{fluidvm.wire.channel.Channel}.

    @ivar site: what it belongs to.
    """

    site: Front
    _peer: Peer | None = None
    _proxy = False
    _secure = False
    _unsent = 0
    _unsent_as = ""

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

    def peer_of(self, request: Request) -> Peer:
        """The client of a request: the connection's, or whom a trusted proxy speaks for."""
        if not self._proxy:
            return self.peer
        proxies = self.site.proxies
        values = request.requestHeaders.getRawHeaders(proxies.header, ())
        return Peer(proxies.client(self.peer.address, values), self.peer.tls)

    def head(self, code: int, kind: bytes, length: int, headers: bytes = b"") -> bytes:
        """What stands before a body of C{length} bytes."""
        return b"%s%sContent-Type: %s\r\nContent-Length: %d\r\n%s%s\r\n" % (
            _STATUS[code],
            self.site.tls_headers if self._secure else self.site.headers,
            kind,
            length,
            headers,
            b"" if self.persistent else b"Connection: close\r\n",
        )

    def send(self, code: int, kind: bytes, body: bytes, headers: bytes = b"", head_only: bool = False) -> None:
        """
        Write one answer.

        @param headers: more header lines, each with its line end.
        @param head_only: leave out the body (the answer to HEAD).
        """
        head = self.head(code, kind, len(body), headers)
        if head_only:
            self.transport.write(head)
            return
        if len(body) > bounds.SMALL:
            self._unsent = len(body)
            self._unsent_as = (self.peer_of(self.requests[0]) if self.requests else self.peer).address
            self.site.unsent.take(self._unsent_as, self._unsent)
        if len(body) < LARGE:
            self.transport.writeSequence((head, body))
        else:
            # What the transport finds alone in its buffer it sends from there; two pieces it would first join into a third.
            # An error shows again with the body, where the reactor deals with it.
            self.transport.write(head)
            if isinstance(self.transport, FileDescriptor):
                self.transport.doWrite()
            self.transport.write(body)
        if not self.client_is_slow:
            self._sent()

    def _sent(self) -> None:
        """What was written is with the transport, or with the client, or never will be."""
        if self._unsent:
            size, self._unsent = self._unsent, 0
            self.site.unsent.give(self._unsent_as, size)
