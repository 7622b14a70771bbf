"""Answers compressed for clients that ask for it: short ones at once, long ones in a thread."""

from __future__ import annotations

import zlib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from fluidvm.wire.answers import Confidential
from fluidvm.wire.unsent import Unsent

LEAST = 2**14
"""Bytes of an answer that is worth it: fewer are on their way at once, in TCP's first packets."""
AT_ONCE = 2**16
"""Bytes that are compressed in the reactor's thread: less than a millisecond."""
MOST_WAITING = 64 * 2**20
"""Bytes that wait for the thread; beyond them answers go out as they are."""
LEVEL = 3
"""zlib's: the fastest on lists, which become a twenty-fifth. The highest takes five times the time for a third less."""
GZIP = b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
"""The header lines of a compressed answer."""


class Gzipped(bytes):
    """An answer that is compressed."""

    __slots__ = ()


class Compressor:
    """
    Compresses answers.

    One that waits for the thread counts as one that its client hasn't taken.

    @param reactor: the real one.
    @param unsent: what counts these.
    """

    _log = Logger()

    def __init__(self, reactor: Any, unsent: Unsent) -> None:
        self._reactor = reactor
        self._unsent = unsent
        self._pool = ThreadPool(0, 1, "compression")
        self._waiting = 0

    def start(self) -> None:
        """Start the thread."""
        self._pool.start()

    def stop(self) -> None:
        """End the thread, with what it is at work on."""
        if self._pool.started:
            self._pool.stop()

    def compress(self, document: bytes, address: str) -> bytes | Deferred[bytes]:
        """
        Compress an answer, if it is worth it, and has nothing in it that its compressed length could betray.

        @param document: the whole answer.
        @param address: the client's.
        @return: L{Gzipped}, or the document itself.
        """
        size = len(document)
        if size < LEAST or isinstance(document, Confidential) or self._waiting + size > MOST_WAITING:
            return document
        if size <= AT_ONCE:
            return _gzip(document)
        self._waiting += size
        self._unsent.take(address, size)

        def done(found: bytes | Failure) -> bytes:
            self._waiting -= size
            self._unsent.give(address, size)
            if isinstance(found, Failure):
                self._log.failure("An answer couldn't be compressed", found)
                return document
            return found

        return deferToThreadPool(self._reactor, self._pool, _gzip, document).addBoth(done)


def _gzip(document: bytes) -> bytes:
    compressed = zlib.compress(document, LEVEL, zlib.MAX_WBITS + 16)
    return Gzipped(compressed) if len(compressed) < len(document) else document
