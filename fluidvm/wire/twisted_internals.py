"""
What FluidVM uses of twisted.web beyond its public API, under names of its own.

No other module of this room uses a private name of Twisted, so a new Twisted that changes one changes this module alone.
L{INTERNALS} lists every such name, and what depends on it. C{tests/unit/wire/test_twisted_internals.py} compares the list
with the Twisted that is installed, and with the code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted.protocols.basic import LineReceiver
from twisted.web import http, server


class Internal(NamedTuple):
    """
    One name that Twisted doesn't document, or calls private.

    @ivar owner: the class of Twisted's that has it.
    @ivar expected: a method's signature; an attribute's type, or its types.
    @ivar used_for: what of FluidVM depends on it.
    """

    owner: type
    name: str
    expected: str | type | tuple[type, ...]
    used_for: str


class Parser(http.HTTPChannel):  # type: ignore[misc]
    """
    twisted.web's HTTP/1.1 parser. It reads requests one after the other, and holds what comes in while one is answered.

    @ivar requests: the requests that have begun and aren't answered: one at most.
    @ivar persistent: whether the connection goes on after the request.
    @ivar length: of the body that comes, in bytes; C{None}: it comes in chunks.
    @ivar client_is_slow: the client hasn't taken all that was written.
    @ivar paused: nothing of what comes in is looked at: it is held.
    """

    requests: list[Any]
    persistent: bool
    length: int | None
    paused: bool
    transport: Any
    _buffer: bytes
    _busyReceiving: bool
    client_is_slow = False

    # What comes in.

    @property
    def between_requests(self) -> bool:
        """Whether bytes that come now are looked at at once, and may begin a request."""
        return not (self.paused or self._busyReceiving or self._buffer)

    @property
    def parsing(self) -> bool:
        """Whether the parser is at work on bytes that have come."""
        return self._busyReceiving

    @property
    def unparsed(self) -> bytes:
        """What has come in and isn't looked at yet: an incomplete line, or what came while it was L{paused}."""
        return self._buffer

    def parse_unparsed(self) -> None:
        """Go on with L{unparsed}."""
        http.HTTPChannel.dataReceived(self, b"")

    def take_pipelined(self) -> bytes:
        """Give what has come in since the request was complete, and forget it."""
        pipelined, self._dataBuffer = b"".join(self._dataBuffer), []
        return pipelined

    def hold_pipelined(self) -> None:
        """Hold what comes in until C{requestDone} is called: a request that the parser hasn't seen is being answered."""
        self._handlingRequest = True
        self.setRawMode()

    @property
    def request_line(self) -> tuple[bytes, bytes, bytes]:
        """Method, target and version of the request whose body is coming in."""
        return self._command, self._path, self._version

    def set_target(self, target: bytes) -> None:
        """Replace the target of the request whose body is coming in."""
        self._path = target

    @property
    def tells_length(self) -> bool:
        """Whether the request's head tells where its body ends."""
        return self._transferDecoder is not None

    def _respondToBadRequestAndDisconnect(self) -> None:
        # twisted.web's own closes while the client may still be sending, which can destroy the answer (RFC 9112, 9.6).
        self.bad_request()

    def bad_request(self) -> None:
        """Called with what is no HTTP request."""
        raise NotImplementedError

    # What goes out.

    def pauseProducing(self) -> None:
        """Called when the client doesn't keep up with reading."""
        self.client_is_slow = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Called when the client has taken all that was written."""
        self.client_is_slow = False
        super().resumeProducing()

    def send_continue(self) -> None:
        """Tell the client to send the body (RFC 9110, section 10.1.1)."""
        self._send100Continue()

    # Whether the transport reads.

    def stop_reading(self) -> None:
        """Read nothing from the client for now."""
        self._networkProducer.pauseProducing()

    def read_on(self) -> None:
        """Read from the client again."""
        self._networkProducer.resumeProducing()


class ParsedRequest(server.Request):  # type: ignore[misc]
    """A request that the parser has read, or that was made like one."""

    channel: Any

    @property
    def answer_begun(self) -> bool:
        """Whether something of the answer has been written."""
        return bool(self.startedWriting)

    def begin_answer(self) -> None:
        """Note that something of the answer is written."""
        self.startedWriting = 1

    @property
    def over(self) -> bool:
        """Whether the request is answered, or its client has gone."""
        return bool(self.finished or self._disconnected)

    def conclude(self, code: int, size: int) -> None:
        """
        Note that the whole answer has been written. The channel goes on, and C{notifyFinish} fires.

        @param code: HTTP's status.
        @param size: the body's, in bytes.
        """
        self.code, self.sentLength, self.startedWriting, self.finished = code, size, 1, 1
        self._cleanup()


_FAST = "calls whose head is known are read without the parser (fluidvm/wire/known_calls.py)"
_HELD = "a client that doesn't read its answers has its further requests held"
_PIPELINE = "requests that come before the answer to the one before are held"
_WEBSOCKET = "consoles take over the connection (fluidvm/wire/websocket.py)"
_HEADS = "heads are checked before anything else is done (fluidvm/wire/heads.py)"
_BODIES = "bodies stay in memory and within bounds, and uploads are taken piece by piece"
_ENDING = "a connection ends in a way that lets the client read the last answer"
_TIMES = "each phase of a connection has a deadline"
_DONE = "an answer is written without twisted.web's own way to write one"

INTERNALS = (
    Internal(LineReceiver, "_buffer", bytes, f"{_FAST}; {_HELD}"),
    Internal(LineReceiver, "_busyReceiving", bool, f"{_FAST}; a client may end its direction of the connection"),
    Internal(LineReceiver, "paused", bool, _HELD),
    Internal(LineReceiver, "dataReceived", "(self, data)", _FAST),
    Internal(LineReceiver, "lineLengthExceeded", "(self, line)", _ENDING),
    Internal(LineReceiver, "setRawMode", "(self)", _PIPELINE),
    Internal(http.HTTPChannel, "_handlingRequest", bool, f"{_PIPELINE}; {_FAST}"),
    Internal(http.HTTPChannel, "_dataBuffer", list, _WEBSOCKET),
    Internal(http.HTTPChannel, "_command", bytes, f"{_HEADS}; {_BODIES}"),
    Internal(http.HTTPChannel, "_path", bytes, f"{_HEADS}; {_BODIES}"),
    Internal(http.HTTPChannel, "_version", bytes, _HEADS),
    Internal(http.HTTPChannel, "_transferDecoder", object, f"{_HEADS}: POST and PUT without a length are refused"),
    Internal(http.HTTPChannel, "_respondToBadRequestAndDisconnect", "(self)", _ENDING),
    Internal(http.HTTPChannel, "_send100Continue", "(self)", f"{_BODIES}: a body that is refused isn't asked for"),
    Internal(http.HTTPChannel, "_networkProducer", object, f"{_HELD}; {_WEBSOCKET}"),
    Internal(http.HTTPChannel, "requests", list, f"{_FAST}; {_TIMES}"),
    Internal(http.HTTPChannel, "persistent", (bool, int), _ENDING),
    Internal(http.HTTPChannel, "length", (int, type(None)), _BODIES),
    Internal(http.HTTPChannel, "lineReceived", "(self, line)", _ENDING),
    Internal(http.HTTPChannel, "rawDataReceived", "(self, data: 'bytes') -> 'None'", f"{_ENDING}; {_WEBSOCKET}"),
    Internal(http.HTTPChannel, "allHeadersReceived", "(self)", f"{_HEADS}; {_TIMES}"),
    Internal(http.HTTPChannel, "allContentReceived", "(self)", _TIMES),
    Internal(http.HTTPChannel, "checkPersistence", "(self, request, version)", _ENDING),
    Internal(http.HTTPChannel, "requestDone", "(self, request)", _TIMES),
    Internal(http.HTTPChannel, "pauseProducing", "(self)", f"{_HELD}; {_TIMES}"),
    Internal(http.HTTPChannel, "resumeProducing", "(self)", f"{_HELD}; {_TIMES}"),
    Internal(http.Request, "_cleanup", "(self)", _DONE),
    Internal(http.Request, "_disconnected", bool, "what fails after the client has gone isn't answered"),
    Internal(http.Request, "finished", int, _DONE),
    Internal(http.Request, "startedWriting", int, f"{_DONE}; a download that breaks off cuts the connection"),
    Internal(http.Request, "code", int, _DONE),
    Internal(http.Request, "sentLength", int, _DONE),
    Internal(http.Request, "gotLength", "(self, length)", _BODIES),
    Internal(http.Request, "handleContentChunk", "(self, data)", _BODIES),
    Internal(http.Request, "requestReceived", "(self, command, path, version)", "no query and no form is parsed"),
    Internal(server.Request, "process", "(self)", "a request goes to the resource at exactly its path"),
)
"""Every name that this room uses and Twisted doesn't document."""
