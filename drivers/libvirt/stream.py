"""libvirt's streams as connections of Twisted: bidirectional and non-blocking."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import libvirt
import libvirtmod
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm.driver import DriverHost
from fluidvm.drivers.console_transport import ConsoleTransport
from fluidvm.drivers.libvirt.side_connection import SideConnection

PIECE = 64 * 1024
"""Maximum number of bytes read or written at once."""
MOST_HELD = 1024 * 1024
"""Maximum number of bytes buffered for a slow viewer; libvirt itself would buffer any number."""
AGAIN = 0.05
"""Seconds until the next attempt, if the host currently accepts nothing more."""
WOULD_BLOCK = -2


class StreamTransport(ConsoleTransport):
    """
    An open non-blocking stream (C{VIR_STREAM_NONBLOCK}), as a protocol's transport.

    libvirt's event loop reports that there is something to read. Reading in that thread only takes what has been received.
    Writing and closing can wait for the guest, so they run in the thread of the stream's connection.

    @param side: the stream's own connection, which ends with it.
    """

    _log = Logger()

    def __init__(self, stream: Any, side: SideConnection, host: DriverHost) -> None:
        self._stream = stream
        self._side = side
        self._host = host
        self._viewer: IProtocol | None = None
        self._coming = bytearray()
        self._going = bytearray()
        self._writing = False
        self._closing = False
        self._gone = False
        self._ended: Failure | None = None
        # HANGUP isn't needed: at the end of the stream a read returns no bytes.
        self._events = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR

    def follow(self) -> None:
        """Register for incoming data. Called in the connection's thread, as it takes libvirt's locks."""
        self._side.before_close += [self._do_abort, self._stream.eventRemoveCallback]
        self._stream.eventAddCallback(self._events, _tell, weakref.ref(self))

    def _do_abort(self) -> None:
        stream, self._stream = self._stream, None
        try:
            stream.abort()
        finally:
            _free(stream)

    def connect(self, viewer: IProtocol) -> None:
        """Connect the protocol to the stream."""
        self._viewer = viewer
        viewer.makeConnection(self)
        self._deliver()

    # The following methods run in libvirt's thread.

    def happened(self, stream: Any) -> None:
        """Read the data that has come in."""
        words = None
        try:
            data = stream.recv(PIECE)
        except libvirt.libvirtError as error:
            data, words = b"", error.get_error_message() or str(error)
        if data == WOULD_BLOCK:
            return
        if not data:
            # If the callback stayed, it would be called again and again; it may be being removed right now.
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
        self._host.call_in_reactor(self._received, data, words)

    # The following methods run in the reactor's thread.

    def _received(self, data: bytes, words: str | None) -> None:
        if self._ended is not None:
            return
        if data:
            self._coming += data
            if len(self._coming) > MOST_HELD:
                self.end("The viewer reads too slowly for the console.")
                return
        else:
            self._ended = Failure(ConnectionDone() if words is None else ConnectionLost(words))
        self._deliver()

    def _deliver(self) -> None:
        viewer = self._viewer
        if viewer is None or self._gone:
            return
        if self._coming and not self._paused:
            data, self._coming = bytes(self._coming), bytearray()
            viewer.dataReceived(data)
        if self._ended is not None and (not self._coming or self._closing):
            self._gone = True
            self._producer = None
            self._going.clear()
            self._side.end()
            viewer.connectionLost(self._ended)

    def end(self, words: str) -> None:
        """Abort the connection, now."""
        self._closing = True
        if self._ended is None:
            self._ended = Failure(ConnectionLost(words))
        self._deliver()

    # The methods of a transport.

    def write(self, data: bytes) -> None:
        """Send as soon as possible."""
        if self._ended is None and not self._closing:
            self._going += data
            if len(self._going) > PIECE and self._producer is not None:
                self._producer.pauseProducing()
            self._send()

    def _send(self) -> None:
        if self._going and not self._writing:
            self._writing = True
            sending = self._side.run(self._do_send, bytes(self._going[:PIECE]))
            sending.addErrback(lambda failure: self._log.failure("A libvirt stream failed", failure))
            sending.addCallback(self._sent)

    def _do_send(self, data: bytes) -> int:
        try:
            return int(self._stream.send(data))
        except libvirt.libvirtError as error:
            self._host.call_in_reactor(self.end, error.get_error_message() or str(error))
            return len(data)

    def _sent(self, count: int | None) -> None:
        self._writing = False
        if self._gone:
            return
        if count == WOULD_BLOCK:
            self._writing = True
            self._host.clock.callLater(AGAIN, self._sent, 0)
        else:
            del self._going[:count]
            self._send()
            if not self._going:
                if self._closing:
                    self._finish()
                elif self._producer is not None:
                    self._producer.resumeProducing()

    def loseConnection(self) -> None:
        """Close the connection after everything was sent."""
        self._closing = True
        if not self._going and not self._writing:
            self._finish()

    def abortConnection(self) -> None:
        """Close the connection at once. With a guest that reads nothing, sending would be retried forever."""
        self.end("The viewer disconnected.")

    def _finish(self) -> None:
        if self._ended is None:
            self._ended = Failure(ConnectionDone())
        # A stream that has ended by itself may have a buffer that the viewer hasn't read, and no longer wants.
        # Not during the viewer's own call.
        self._host.clock.callLater(0, self._deliver)


def _tell(stream: Any, events: int, reference: weakref.ref[StreamTransport]) -> None:
    """Called in libvirt's thread: there is something to read, or the stream has ended."""
    transport = reference()
    if transport is not None:
        transport.happened(stream)


def _free(stream: Any) -> None:
    """
    Release libvirt's stream, which keeps its connection open as long as the Python object exists.

    libvirt 9.0, for example, never releases the argument of the event callback, which references that object (and would
    reference the transport, if the reference weren't weak).
    """
    handle, stream._o, stream._conn = stream._o, None, None
    stream.__dict__.pop("cb", None)
    libvirtmod.virStreamFree(handle)
