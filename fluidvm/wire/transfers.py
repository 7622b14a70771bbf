"""Bytes that don't travel in calls: C{PUT /images/upload} and C{GET /disks/ID/content}; resumable, piece by piece."""

from __future__ import annotations

import errno
import json
import re
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import resource, server
from zope.interface import implementer

from fluidvm.engine.outcome import fault_of
from fluidvm.faults import ApiFault, InvalidParams, TooLarge
from fluidvm.image_files import MIB, PIECE
from fluidvm.sessions import HeldBack
from fluidvm.transfers import Contents, Transfers
from fluidvm.wire.request import PLAIN, Request

UPLOADS = b"/images/upload"
DISK_PATH = re.compile(rb"/disks/([1-9][0-9]{0,9})/content")
COOKIE = b"X-FluidVM-Cookie"
BYTES = b"application/octet-stream"
JSON = b"application/json"
STATUSES = {-32602: 400, 401: 401, 403: 403, 404: 404, 409: 409, 413: 413, 429: 429, 501: 501, 503: 503, 507: 507}
"""HTTP's status for each fault; 500 for others."""


def _query(uri: bytes, name: str) -> str:
    values = parse_qs(uri.partition(b"?")[2].decode("ascii", "replace")).get(name, [])
    return values[0] if len(values) == 1 else ""


def _cookie(request: Request, uri: bytes) -> str:
    header: Any = request.requestHeaders.getRawHeaders(COOKIE)
    return header[0].decode("latin-1").strip() if header else _query(uri, "cookie")


def _refused(failure: Failure, request: Request, transfers: Transfers) -> None:
    error = failure.value
    if isinstance(error, HeldBack) and request.channel is not None:
        waiting = transfers.held_back(request.channel.peer_of(request).address)
        waiting.addCallback(lambda nothing: _refuse(request, error))
    else:
        _refuse(request, error)


def _refuse(request: Request, error: BaseException | None) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        request.answer(507, PLAIN, b"The server's disk is full.\n")
        return
    fault = fault_of(error if isinstance(error, Exception) else RuntimeError(repr(error)), "a transfer")
    request.answer(STATUSES.get(fault.faultCode, 500), PLAIN, fault.faultString.encode() + b"\n")


class UploadDoor(resource.Resource):  # type: ignore[misc]
    """C{/images/upload}: PUT sends, GET tells how much is there."""

    isLeaf = True

    def __init__(self, transfers: Transfers) -> None:
        super().__init__()
        self._transfers = transfers

    def begin(self, request: Any, uri: bytes, length: int | None) -> Upload:
        """Called before the body comes."""
        return Upload(self._transfers, request, uri, length)

    def render(self, request: Any) -> int:
        if request.method == b"PUT":
            answering = request.sink.complete()
            answering.addCallback(lambda told: request.answer(200, JSON, json.dumps(told).encode() + b"\n"))
            answering.addErrback(_refused, request, self._transfers)
        elif request.method in (b"GET", b"HEAD"):
            Deferred.fromCoroutine(self._tell(request)).addErrback(_refused, request, self._transfers)
        else:
            request.answer(405, PLAIN, b"Uploads are sent by PUT.\n", b"Allow: GET, HEAD, PUT\r\n")
        return server.NOT_DONE_YET

    async def _tell(self, request: Any) -> None:
        address = request.channel.peer_of(request).address
        user, name = self._transfers.upload(_cookie(request, request.uri), address, _query(request.uri, "upload"))
        size = await self._transfers.files.uploaded(user, name)
        request.answer(200, JSON, json.dumps({"upload": name, "size": size}).encode() + b"\n")


class Upload:
    """
    One PUT. While a piece is written none comes; what has come when the connection breaks is kept.

    @ivar refusal: why its body isn't wanted; C{None}: it is.
    """

    def __init__(self, transfers: Transfers, request: Any, uri: bytes, length: int | None) -> None:
        self.refusal: Exception | None = None
        self._channel = request.channel
        self._files = transfers.files
        self._transfers: Transfers | None = None
        self._held = bytearray()
        self._offset: int | None = None
        self._size = 0
        self._last = False
        self._working: Deferred[None] = succeed(None)
        try:
            address = self._channel.peer_of(request).address
            self._user, self._name = transfers.upload(_cookie(request, uri), address, _query(uri, "upload"))
            start = _start(request)
            if start + (length or 0) > self._files.most:
                raise TooLarge(f"An image's file has {self._files.most // MIB} MiB at most: see --max-image.")
            self._offset, self._size = start or None, start
            transfers.enter()
            self._transfers = transfers
        except ApiFault as fault:
            self.refusal = fault

    def take(self, data: bytes) -> None:
        """A part of the body has come."""
        self._channel.deadline = self._channel.site.seconds() + self._channel.site.bounds.body_time
        self._held += data
        if len(self._held) >= PIECE:
            self._channel.transport.pauseProducing()
            self._write().addBoth(self._go_on)

    def _go_on(self, nothing: Any) -> None:
        if self._transfers is not None:
            self._channel.transport.resumeProducing()

    def _write(self) -> Deferred[None]:
        data, self._held = bytes(self._held), bytearray()
        self._working.addCallback(lambda nothing: self._write_piece(data))
        waiting: Deferred[None] = Deferred()

        def ended(result: Any) -> Any:
            waiting.callback(None)
            return result

        self._working.addBoth(ended)
        return waiting

    def _write_piece(self, data: bytes) -> Deferred[None]:
        offset, self._size = self._offset, self._size + len(data)
        if self._size > self._files.most:
            raise TooLarge(f"An image's file has {self._files.most // MIB} MiB at most: see --max-image.")
        self._offset = self._size
        writing: Deferred[None] = self._files.upload(self._user, self._name, offset, data)
        return writing

    def complete(self) -> Deferred[dict[str, Any]]:
        """All has come. Fires with what to answer."""
        if self.refusal is not None:
            self._leave()
            working: Deferred[None] = Deferred()
            working.errback(Failure(self.refusal))
        else:
            self._write()
            self._leave()
            working = self._working
        return working.addCallback(lambda nothing: {"upload": self._name, "size": self._size})

    def broken(self) -> None:
        """The connection has ended before all had come, or after the answer."""
        if self._transfers is not None:
            self._leave()
            self._write()
            self._working.addErrback(lambda failure: None)  # nobody is there to be told

    def _leave(self) -> None:
        transfers, self._transfers = self._transfers, None
        if transfers is not None:
            transfers.leave()


def _start(request: Any) -> int:
    """Where a PUT goes on, by its Content-Range. @raise InvalidParams: it isn't understood."""
    values: Any = request.requestHeaders.getRawHeaders(b"Content-Range")
    if not values:
        return 0
    found = re.fullmatch(rb"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)", values[0].strip())
    if found is None:
        raise InvalidParams("Content-Range: wants bytes FIRST-LAST/ALL.")
    return int(found[1])


class DiskDoor(resource.Resource):  # type: ignore[misc]
    """C{/disks/ID/content}: a disk's bytes, or a range of them."""

    isLeaf = True
    _log = Logger()

    def __init__(self, transfers: Transfers) -> None:
        super().__init__()
        self._transfers = transfers

    def render(self, request: Any) -> int:
        if request.method not in (b"GET", b"HEAD"):
            request.answer(405, PLAIN, b"A disk's content is got by GET.\n", b"Allow: GET, HEAD\r\n")
        else:
            Deferred.fromCoroutine(self._answer(request)).addErrback(self._failed, request)
        return server.NOT_DONE_YET

    def _failed(self, failure: Failure, request: Any) -> None:
        channel = request.channel
        if channel is None:
            return
        if not request.startedWriting:
            _refused(failure, request, self._transfers)
            return
        # The head is gone; what can still be said is that this wasn't all.
        self._log.warn("The content of a disk couldn't be sent to its end: {error}", error=str(failure.value))
        channel.transport.abortConnection()

    async def _answer(self, request: Any) -> None:
        found: Any = DISK_PATH.fullmatch(request.path)
        address = request.channel.peer_of(request).address
        contents = await self._transfers.disk(_cookie(request, request.uri), address, int(found[1]))
        if request.channel is None:
            return
        ranges: Any = request.requestHeaders.getRawHeaders(b"Range")
        start, end, code = 0, contents.length, 200
        headers = b'Accept-Ranges: bytes\r\nContent-Disposition: attachment; filename="%s"\r\n' % contents.name.encode()
        if ranges and (wanted := _wanted(ranges[0], contents.length)) is not None:
            start, end, code = *wanted, 206
            if start >= end:
                request.answer(416, PLAIN, b"There are no such bytes.\n", b"Content-Range: bytes */%d\r\n" % contents.length)
                return
            headers += b"Content-Range: bytes %d-%d/%d\r\n" % (start, end - 1, contents.length)
        self._transfers.enter()
        try:
            await _send(request, contents, start, end, code, headers)
        finally:
            self._transfers.leave()


def _wanted(value: bytes, length: int) -> tuple[int, int] | None:
    """
    Read a header C{Range} (RFC 9110, section 14.2).

    @return: first byte, and the one after the last; C{None}: it is to be ignored, as several ranges are.
    """
    found = re.fullmatch(rb"bytes=([0-9]{0,15})-([0-9]{0,15})", value.strip())
    if found is None or found[0] == b"bytes=-":
        return None
    if not found[1]:
        return max(0, length - int(found[2])), length
    start, last = int(found[1]), int(found[2] or length)
    return (start, min(length, last + 1)) if last >= start or not found[2] else None


@implementer(IPushProducer)
class _Gate:
    """Open while the client keeps up with reading."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._waiting: Deferred[None] | None = None
        self._shut = False

    def passed(self) -> Deferred[None]:
        """Fires when it is open."""
        if not self._shut:
            return succeed(None)
        self._waiting = Deferred()
        return self._waiting

    def pauseProducing(self) -> None:
        self._shut = True
        self._channel.deadline = self._channel.site.seconds() + self._channel.site.bounds.send_time

    def resumeProducing(self) -> None:
        self._shut = False
        self._channel.deadline = float("inf")
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """The client has gone."""
        self.resumeProducing()


async def _send(request: Any, contents: Contents, start: int, end: int, code: int, headers: bytes) -> None:
    channel = request.channel
    request.startedWriting = 1
    channel.transport.write(channel.head(code, BYTES, end - start, headers))
    if request.method == b"GET":
        gate = _Gate(channel)
        request.registerProducer(gate, True)
        offset = start
        while offset < end:
            data = await contents.read(offset, min(PIECE, end - offset))
            if request.channel is None:
                return
            if not data:
                raise OSError(f"the disk has ended at byte {offset}")
            channel.transport.write(data)
            offset += len(data)
            await gate.passed()
            if request.channel is None:
                return
        request.unregisterProducer()
    request.end(code, end - start)
