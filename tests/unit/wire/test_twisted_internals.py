"""The undocumented names of Twisted that the server uses are there, and are what it takes them for."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http, resource, server

import fluidvm.wire
import twisted
from fluidvm.wire.twisted_internals import INTERNALS, Internal, Parser

WIRE = Path(fluidvm.wire.__file__).parent
HEAD = b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


def complain(internal: Internal, what: str) -> str:
    owner = f"{internal.owner.__module__}.{internal.owner.__name__}"
    return f"Twisted {twisted.__version__}: {owner}.{internal.name} {what}. It is needed for this: {internal.used_for}."


def attributes(source: str) -> set[str]:
    """Every name that a file reads or sets as an attribute, or defines in a class."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    found.add(part.name)
                elif isinstance(part, ast.Assign):
                    found |= {target.id for target in part.targets if isinstance(target, ast.Name)}
                elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    found.add(part.target.id)
    return found


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


class Channel(http.HTTPChannel):  # type: ignore[misc]
    """Twisted's own, which notes what it is like while a line is read, and answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.busy: list[Any] = []
        self.done: list[http.Request] = []
        self.requestFactory = Request

    def lineReceived(self, line: bytes) -> None:
        self.busy.append(self._busyReceiving)
        super().lineReceived(line)


class Request(server.Request):  # type: ignore[misc]
    channel: Any

    def process(self) -> None:
        self.channel.done.append(self)


class InternalsTests(SynchronousTestCase):
    def channel(self, data: bytes = b"") -> Any:
        channel: Any = Channel()
        channel.timeOut = None
        channel.site = server.Site(resource.Resource(), reactor=Clock())
        channel.makeConnection(StringTransport())
        channel.dataReceived(data)
        return channel

    def test_each_name_is_what_it_is_taken_for(self) -> None:
        """On a connection, in the middle of a request's body."""
        channel = self.channel(HEAD + b"ab")
        for internal in INTERNALS:
            if isinstance(internal.expected, str):
                method = getattr(internal.owner, internal.name, None)
                self.assertIsNotNone(method, complain(internal, "is missing"))
                found = str(inspect.signature(method))  # type: ignore[arg-type]
                self.assertEqual(found, internal.expected, complain(internal, "has other arguments"))
                continue
            owner: Any = channel.requests[0] if issubclass(internal.owner, http.Request) else channel
            self.assertIsInstance(owner, internal.owner)
            self.assertTrue(hasattr(owner, internal.name), complain(internal, "is missing"))
            self.assertIsInstance(getattr(owner, internal.name), internal.expected, complain(internal, "has another type"))

    def test_a_name_that_changes_is_reported_with_what_depends_on_it(self) -> None:
        self.patch(http.HTTPChannel, "_send100Continue", lambda self, status: None)
        error = self.assertRaises(self.failureException, self.test_each_name_is_what_it_is_taken_for)
        self.assertIn("twisted.web.http.HTTPChannel._send100Continue has other arguments", str(error))
        self.assertIn("bodies stay in memory", str(error))

    def test_what_has_not_been_looked_at(self) -> None:
        """An incomplete line is in C{_buffer}, and so is all that comes while the parser is paused."""
        channel = self.channel(b"POST /RP")
        self.assertEqual((channel._buffer, channel.busy), (b"POST /RP", []))
        channel.paused = True
        channel.dataReceived(b"C2 HTTP/1.1\r\n")
        self.assertEqual((channel._buffer, channel.busy), (b"POST /RPC2 HTTP/1.1\r\n", []))
        channel.paused = False
        http.HTTPChannel.dataReceived(channel, b"")
        self.assertEqual((channel._buffer, channel.busy, channel._busyReceiving), (b"", [True], False))
        self.assertEqual((channel._command, channel._path, channel._version), (b"POST", b"/RPC2", b"HTTP/1.1"))

    def test_a_pipeline(self) -> None:
        """What comes while a request is answered is in C{_dataBuffer}; C{requestDone} goes on with it."""
        channel = self.channel(HEAD + b"12345" + HEAD)
        self.assertEqual((channel._handlingRequest, b"".join(channel._dataBuffer)), (True, HEAD))
        channel.dataReceived(b"123")
        self.assertEqual((len(channel.done), b"".join(channel._dataBuffer)), (1, HEAD + b"123"))
        channel.done[0]._cleanup()
        self.assertEqual((channel._handlingRequest, channel._dataBuffer, len(channel.requests)), (False, [], 1))
        channel.dataReceived(b"45")
        self.assertEqual((channel._handlingRequest, len(channel.done)), (True, 2))

    def test_a_request_that_the_parser_has_not_seen(self) -> None:
        """As one that was read without the parser: what comes in is held until it is done."""
        channel = self.channel()
        request = Request(channel)
        channel.requests.append(request)
        channel._handlingRequest = True
        channel.setRawMode()
        channel.dataReceived(HEAD + b"12345")
        self.assertEqual((channel.done, b"".join(channel._dataBuffer)), ([], HEAD + b"12345"))
        request._cleanup()
        self.assertEqual((len(channel.done), channel.requests), (1, channel.done))

    def test_where_a_body_ends(self) -> None:
        for head, length in ((HEAD, 5), (HEAD.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), None)):
            channel = self.channel(head)
            self.assertEqual(channel.length, length)
            self.assertIsNotNone(channel._transferDecoder)
        seen: list[Any] = []
        self.patch(Channel, "allHeadersReceived", lambda self: seen.append(self._transferDecoder))
        self.patch(Channel, "allContentReceived", lambda self: None)
        self.channel(b"POST /RPC2 HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(seen, [None])

    def test_what_is_no_request(self) -> None:
        calls: list[int] = []
        self.patch(Channel, "_respondToBadRequestAndDisconnect", lambda self: calls.append(1))
        for head in (b"nothing\r\n", b"GET / HTTP/1.1\r\n\0: x\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
            calls.clear()
            self.channel(head)
            self.assertEqual(len(calls), 1, head)

    def test_a_client_that_is_slow(self) -> None:
        channel = self.channel()
        for slow in (True, False):
            (channel.pauseProducing if slow else channel.resumeProducing)()
            self.assertEqual(channel._waitingForTransport, slow)  # what L{Parser} counts by itself
            self.assertEqual(channel.transport.producerState, "paused" if slow else "producing")
        channel._networkProducer.pauseProducing()
        self.assertEqual(channel.transport.producerState, "paused")
        channel._networkProducer.resumeProducing()
        self.assertEqual(channel.transport.producerState, "producing")

    def test_a_client_that_has_gone(self) -> None:
        channel = self.channel(HEAD + b"12345")
        (request,) = channel.done
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)
        self.assertFalse(request._disconnected)
        channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((request._disconnected, request.channel, len(gone)), (True, None, 1))

    def test_expecting_to_go_on(self) -> None:
        channel = self.channel()
        channel._send100Continue()
        self.assertEqual(channel.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")


class NowhereElseTests(SynchronousTestCase):
    """The rest of the room has no private name of Twisted."""

    def test_the_module_uses_only_what_it_lists(self) -> None:
        listed = {internal.name for internal in INTERNALS}
        used = {name for name in attributes((WIRE / "twisted_internals.py").read_text()) if private(name)}
        self.assertEqual(used - listed, set())
        self.assertEqual({name for name in listed if private(name)} - used, set())

    def test_no_other_module_uses_or_redefines_any(self) -> None:
        twisteds = set()
        for owner in (LineReceiver, http.HTTPChannel, http.HTTPFactory, http.Request, server.Request, server.Site):
            twisteds |= {name for name in attributes(inspect.getsource(owner)) if private(name)}
        self.assertIn("_busyReceiving", twisteds)
        for name in ("channel", "known_calls", "request", "sending", "states"):
            used = {found for found in attributes((WIRE / f"{name}.py").read_text()) if private(found)}
            self.assertEqual(used & twisteds, set(), name)

    def test_no_module_reaches_into_another_object(self) -> None:
        """A name with an underscore is used on C{self} alone, and none is imported from Twisted."""
        for path in WIRE.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and private(node.attr):
                    owner = node.value.id if isinstance(node.value, ast.Name) else ""
                    self.assertIn(owner, ("self", "cls"), f"{path.name}: {node.attr}")
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twisted"):
                    self.assertEqual([alias.name for alias in node.names if alias.name.startswith("_")], [], path.name)
                    self.assertNotIn("._", node.module or "", path.name)

    def test_the_room_has_no_other_channel(self) -> None:
        """What is a channel of Twisted's is a L{Parser}."""
        found = [path.name for path in WIRE.glob("*.py") if "HTTPChannel" in attributes(path.read_text())]
        self.assertEqual(found, ["twisted_internals.py"])
        self.assertTrue(issubclass(Parser, http.HTTPChannel))
