"""C{PUT /images/upload}: uploads files for images. Uploads can be resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import resource, server

from fluidvm.access.transfers import Sending, Transfers
from fluidvm.engine.errors import fault_of
from fluidvm.images.files import PIECE
from fluidvm.model.faults import ApiFault, InvalidParams, Unavailable
from fluidvm.wire.request import PLAIN
from fluidvm.wire.transfers import cookie, query, refused

UPLOADS = b"/images/upload"
JSON = b"application/json"
LEAST = 2**16
"""Bytes that a client must send within the time limit for a body, to get more time."""


class UploadDoor(resource.Resource):  # type: ignore[misc]
    """C{/images/upload}: PUT sends, GET returns the size so far."""

    isLeaf = True

    def __init__(self, transfers: Transfers) -> None:
        super().__init__()
        self._transfers = transfers

    def begin(self, request: Any, uri: bytes, length: int | None) -> Upload | Refused:
        """Called before the body arrives."""
        address, name = request.channel.peer_of(request).address, query(uri, "upload")
        try:
            sending = self._transfers.send(cookie(request, uri), address, name, _start(request), length)
        except ApiFault as fault:
            return Refused(fault)
        return Upload(sending, request)

    def render(self, request: Any) -> int:
        if request.method == b"PUT":
            answering = request.sink.complete()
            answering.addCallback(lambda told: request.answer(200, JSON, json.dumps(told).encode() + b"\n"))
            answering.addErrback(refused, request, self._transfers)
        elif request.method in (b"GET", b"HEAD"):
            Deferred.fromCoroutine(self._tell(request)).addErrback(refused, request, self._transfers)
        else:
            request.answer(405, PLAIN, b"Use PUT to send an upload.\n", b"Allow: GET, HEAD, PUT\r\n")
        return server.NOT_DONE_YET

    async def _tell(self, request: Any) -> None:
        address, name = request.channel.peer_of(request).address, query(request.uri, "upload")
        size = await self._transfers.uploaded(cookie(request, request.uri), address, name)
        request.answer(200, JSON, json.dumps({"upload": name, "size": size}).encode() + b"\n")


class Refused:
    """A refused PUT. C{refusal}: why."""

    def __init__(self, refusal: ApiFault) -> None:
        self.refusal = refusal

    def complete(self) -> Deferred[dict[str, Any]]:
        """Fails with the fault to answer."""
        return fail(self.refusal)


class Upload:
    """
    One PUT. Reading is paused while a piece is written. If it ends early, the bytes received so far are kept.

    @ivar refusal: why the body, or the rest of it, is refused; C{None}: it is accepted.
    """

    _log = Logger()

    def __init__(self, sending: Sending, request: Any) -> None:
        self.refusal: ApiFault | None = None
        self._request = request
        self._channel = request.channel
        self._sending = sending
        self._held = bytearray()
        self._recent = 0
        self._all_came = False
        self._over = False
        self._working: Deferred[None] = succeed(None)
        # The transfer ends with the request, however that ends.
        request.notifyFinish().addBoth(self._ended)
        sending.on_stop = self._stop
        self._then(sending.writing.register)

    def take(self, data: bytes) -> None:
        """Called with each part of the body."""
        if self.refusal is not None:
            return
        self._sending.count += len(data)
        self._recent += len(data)
        if self._recent >= LEAST:
            self._more_time()
        self._held += data
        if len(self._held) >= PIECE:
            self._channel.transport.pauseProducing()
            self._write()
            self._working.addCallback(self._go_on)

    def _more_time(self) -> None:
        self._recent = 0
        self._channel.deadline = self._channel.site.seconds() + self._channel.site.bounds.body_time

    def _go_on(self, nothing: Any) -> None:
        if self.refusal is None and not self._all_came and not self._over:
            self._more_time()
            self._channel.transport.resumeProducing()

    def _write(self) -> None:
        data, self._held = bytes(self._held), bytearray()
        self._then(lambda: self._sending.writing.write(data))

    def _then(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do work after all earlier work is done; skip it if that has failed."""
        self._working.addCallback(lambda nothing: None if self.refusal is not None else _deferred(work))
        self._working.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        fault = fault_of(error if isinstance(error, Exception) else RuntimeError(repr(error)), "an upload")
        self._sending.stop(fault)

    def _stop(self, fault: ApiFault) -> None:
        """Refuse the rest of the upload. The client gets the answer now, even if it is still sending."""
        self.refusal = fault
        self._held.clear()
        if not self._all_came and not self._over:
            self._request.too_large = True
            self._request.refuse_body()
            self._channel.transport.resumeProducing()  # the rest of the body is discarded

    def complete(self) -> Deferred[dict[str, Any]]:
        """Called when the body is complete, or refused. Fires with the answer."""
        self._all_came = True
        answer: Deferred[dict[str, Any]] = Deferred()
        if self.refusal is None:
            self._write()  # even if there are no bytes: the upload is empty then
        # Before the client gets an answer, because then it may send the same upload again.
        self._working.addCallback(lambda nothing: _deferred(self._sending.writing.end))
        self._working.addErrback(self._failed)
        self._working.addCallback(self._answer, answer)
        return answer

    def _answer(self, nothing: None, answer: Deferred[dict[str, Any]]) -> None:
        if self.refusal is not None:
            answer.errback(Failure(self.refusal))
        else:
            self._sending.close(None)
            answer.callback({"upload": self._sending.name, "size": self._sending.writing.size})

    def _ended(self, nothing: Any) -> None:
        """Called when the request is answered, or its connection is closed."""
        self._over = True
        if self._held and not self._all_came:
            self._write()
        self._working.addCallback(lambda nothing: _deferred(self._sending.writing.end))
        self._working.addErrback(lambda failure: self._log.failure("Releasing an upload failed", failure))
        self._working.addCallback(lambda nothing: self._sending.let_go())
        self._sending.close(None if self._all_came else Unavailable("The connection ended before everything was received."))


def _deferred(work: Callable[[], Awaitable[None]]) -> Deferred[None]:
    return Deferred.fromCoroutine(work())  # type: ignore[arg-type]


def _start(request: Any) -> int:
    """Return the offset of a PUT from its Content-Range. @raise InvalidParams: the header is malformed."""
    values: Any = request.requestHeaders.getRawHeaders(b"Content-Range")
    if not values:
        return 0
    found = re.fullmatch(rb"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)", values[0].strip())
    if found is None:
        raise InvalidParams("Content-Range: must be bytes FIRST-LAST/TOTAL.")
    first, last = int(found[1]), int(found[2])
    if first > last or (found[3] != b"*" and last >= int(found[3])):
        raise InvalidParams("Content-Range: LAST must be at least FIRST and less than TOTAL.")
    return first
