"""Compression of answers for clients that accept it: short ones at once, long ones in a thread."""

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
"""Minimum size of an answer to compress. Smaller ones fit into the first packets of TCP anyway."""
AT_ONCE = 2**16
"""Bytes that are compressed in the reactor's thread, in less than a millisecond."""
MOST_WAITING = 64 * 2**20
"""Bytes that may wait for the thread. Beyond this, answers are sent uncompressed."""
LEVEL = 3
"""The zlib level: the fastest for lists, which shrink to 1/25. The highest level takes five times as long for 1/3 less."""
GZIP = b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
"""The header lines of a compressed answer."""


class Gzipped(bytes):
    """A compressed answer."""

    __slots__ = ()


class Compressor:
    """
    Compresses answers.

    An answer that waits for the thread counts as unsent.

    @param reactor: the real one.
    @param unsent: counts the unsent bytes.
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
        """Stop the thread, after its current work."""
        if self._pool.started:
            self._pool.stop()

    def compress(self, document: bytes, address: str) -> bytes | Deferred[bytes]:
        """
        Compress an answer if that is worthwhile, and if the compressed length could not reveal a secret.

        @param document: the whole answer.
        @param address: the address of the client.
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
