"""C{GET /disks/ID/content}: a disk's bytes, or a range of them."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import resource, server
from zope.interface import implementer

from fluidvm.access.transfers import Contents, Fetching, Transfers
from fluidvm.engine.errors import fault_of
from fluidvm.images.files import PIECE
from fluidvm.model.faults import Unavailable
from fluidvm.wire.request import PLAIN
from fluidvm.wire.transfers import cookie, refused

DISK_PATH = re.compile(rb"/disks/([1-9][0-9]{0,9})/content")
BYTES = b"application/octet-stream"


class DiskDoor(resource.Resource):  # type: ignore[misc]
    """C{/disks/ID/content}: a disk's bytes, or a range of them."""

    isLeaf = True
    _log = Logger()

    def __init__(self, transfers: Transfers) -> None:
        super().__init__()
        self._transfers = transfers

    def render(self, request: Any) -> int:
        if request.method not in (b"GET", b"HEAD"):
            request.answer(405, PLAIN, b"Use GET to download the content of a disk.\n", b"Allow: GET, HEAD\r\n")
        else:
            Deferred.fromCoroutine(self._answer(request)).addErrback(self._failed, request)
        return server.NOT_DONE_YET

    def _failed(self, failure: Failure, request: Any) -> None:
        channel = request.channel
        if channel is None:
            return
        if not request.answer_begun:
            refused(failure, request, self._transfers)
            return
        self._log.warn("Sending the content of a disk failed: {error}", error=str(failure.value))
        _cut(request)

    async def _answer(self, request: Any) -> None:
        found: Any = DISK_PATH.fullmatch(request.path)
        address = request.channel.peer_of(request).address
        fetching = self._transfers.fetch(cookie(request, request.uri), address, int(found[1]))
        # The transfer ends with the request, however that ends.
        broken = Unavailable("The connection ended before everything was sent.")
        request.notifyFinish().addBoth(lambda nothing: fetching.close(broken))
        fetching.on_stop = lambda fault: _cut(request)
        try:
            await _give(request, fetching)
        except Exception as error:
            fault = fault_of(error, "a download")
            fetching.close(fault)
            raise fault from None


def _cut(request: Any) -> None:
    """Abort the connection, so that the client notices that the download is incomplete: the status was already sent."""
    if request.answer_begun and request.channel is not None:
        request.channel.transport.abortConnection()


async def _give(request: Any, fetching: Fetching) -> None:
    contents = await fetching.open()
    if request.channel is None:
        return
    ranges: Any = request.requestHeaders.getRawHeaders(b"Range")
    start, end, code = 0, contents.length, 200
    tag = b'"%s"' % fetching.tag.encode()
    headers = b'Accept-Ranges: bytes\r\nETag: %s\r\nContent-Disposition: attachment; filename="%s"\r\n' % (
        tag,
        contents.name.encode(),
    )
    only_if: Any = request.requestHeaders.getRawHeaders(b"If-Range", (tag,))
    # RFC 9110, section 13.1.5: if the disk has changed, a range would not match the earlier bytes, so send everything.
    if only_if[0].strip() == tag and ranges and (wanted := _wanted(ranges[0], contents.length)) is not None:
        start, end, code = *wanted, 206
        if start >= end:
            fetching.close(None)
            request.answer(416, PLAIN, b"The disk has no such bytes.\n", b"Content-Range: bytes */%d\r\n" % contents.length)
            return
        headers += b"Content-Range: bytes %d-%d/%d\r\n" % (start, end - 1, contents.length)
    fetching.told["first"] = start
    await _send(request, fetching, contents, start, end, code, headers)


def _wanted(value: bytes, length: int) -> tuple[int, int] | None:
    """
    Parse a header C{Range} (RFC 9110, section 14.2).

    @return: the first byte, and the one after the last; C{None}: ignore the header, for example if it has several ranges.
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
    """Open while the client reads fast enough. C{ended}: the request has ended."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._waiting: Deferred[None] | None = None
        self._shut = False
        self.ended = False

    def passed(self) -> Deferred[None]:
        """Fires when the gate is open."""
        if not self._shut:
            return succeed(None)
        self._waiting = Deferred()
        return self._waiting

    def pauseProducing(self) -> None:
        self._shut = True
        self._channel.deadline = self._channel.site.seconds() + self._channel.site.bounds.send_time

    def resumeProducing(self) -> None:
        self._channel.deadline = float("inf")
        self._open()

    def gone(self, nothing: object = None) -> None:
        """Note that the request has ended, and release the waiter."""
        self.ended = True
        self._open()

    def _open(self) -> None:
        self._shut = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """Called when the client has disconnected, before the request is notified."""
        self.gone()


async def _send(
    request: Any, fetching: Fetching, contents: Contents, start: int, end: int, code: int, headers: bytes
) -> None:
    channel = request.channel
    request.begin_answer()
    channel.transport.write(channel.head(code, BYTES, end - start, headers))
    if request.method == b"GET":
        gate = _Gate(channel)
        request.notifyFinish().addBoth(gate.gone)
        request.registerProducer(gate, True)
        offset = start
        while offset < end:
            data = await fetching.read(contents, offset, min(PIECE, end - offset))
            if gate.ended:
                return
            if not data:
                raise Unavailable(f"Disk {contents.name} ended early, at byte {offset}.")
            channel.transport.write(data)
            offset += len(data)
            fetching.count += len(data)
            await gate.passed()
            if gate.ended:
                return
        request.unregisterProducer()
    fetching.close(None)
    request.end(code, end - start)
