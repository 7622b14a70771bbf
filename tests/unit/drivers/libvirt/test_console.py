"""Serial consoles through libvirt: each one has its own connection to its host, which ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import libvirt
import libvirtmod
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from fluidvm.conformance.console import Viewer
from fluidvm.driver import DriverError, Unreachable
from fluidvm.drivers.libvirt import console as libvirt_console
from fluidvm.drivers.libvirt import side_connection as libvirt_side_connection
from fluidvm.drivers.libvirt.console import OPEN_SECONDS, LibvirtSerial
from fluidvm.drivers.libvirt.stream import MOST_HELD, PIECE
from tests import TIMEOUT

reactor: Any = _reactor
UUID = "12345678-1234-1234-1234-123456789abc"
TEXT = "<domain><name>web1</name><devices><serial type='pty'/></devices></domain>"
POLL = 0.005


class Stream:
    """
    A fake stream of libvirt.

    @ivar takes: set: data is accepted; else sending blocks, as in libvirt when libvirtd no longer reads anything.
    """

    def __init__(self) -> None:
        self.takes = threading.Event()
        self.takes.set()
        self.sent = b""
        self.coming: list[bytes | int] = []
        self.aborted = 0
        self.callback: Any = None
        self.opaque: Any = None
        self._o: Any = object()
        self._conn: Any = None

    def eventAddCallback(self, events: int, callback: Any, opaque: Any) -> None:
        self.callback, self.opaque = callback, opaque

    def eventRemoveCallback(self) -> None:
        if self.callback is None:
            raise libvirt.libvirtError("no callback")
        self.callback = None

    def say(self, data: bytes) -> None:
        """Do what libvirt does in its event loop's thread."""
        self.coming.append(data)
        self.callback(self, libvirt.VIR_STREAM_EVENT_READABLE, self.opaque)

    def recv(self, length: int) -> bytes | int:
        if self._o is None:
            raise libvirt.libvirtError("invalid stream pointer")
        return self.coming.pop(0)

    def send(self, data: bytes) -> int:
        self.takes.wait(TIMEOUT)
        self.sent += data
        return len(data)

    def abort(self) -> None:
        self.aborted += 1


class Domain:
    """A running domain."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def name(self) -> str:
        return "web1"

    def state(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_RUNNING, 0]

    def isActive(self) -> bool:
        return True

    def XMLDesc(self, flags: int) -> str:
        return TEXT

    def openConsole(self, name: None, stream: Stream, flags: int) -> None:
        if self._connection.failing:
            raise libvirt.libvirtError("not today")
        self._connection.taken = True


class Connection:
    """
    A connection to a host.

    @ivar taken: the console was opened through it, which disconnected other viewers.
    """

    def __init__(self, failing: bool = False) -> None:
        self.stream = Stream()
        self.open = True
        self.on_close: Any = None
        self.failing = failing
        self.taken = False

    def isAlive(self) -> int:
        return int(self.open)

    def lookupByUUIDString(self, uuid: str) -> Domain:
        return Domain(self)

    def newStream(self, flags: int) -> Stream:
        return self.stream

    def registerCloseCallback(self, callback: Any, opaque: Any) -> None:
        self.on_close = callback

    def unregisterCloseCallback(self) -> None:
        self.on_close = None

    def close(self) -> None:
        self.open = False


class Host:
    """A L{DriverHost}; the node's own thread is the caller's."""

    node = "node1"
    reactor = reactor

    def __init__(self) -> None:
        self.clock = Clock()

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return maybeDeferred(function, *args)

    def call_in_reactor(self, function: Callable[..., Any], *args: Any) -> None:
        reactor.callFromThread(function, *args)


def log_in() -> tuple[str, str]:
    """Not called, as libvirt is replaced by fakes."""
    raise AssertionError


class SerialTests(TestCase):
    def setUp(self) -> None:
        self.host: Any = Host()
        self.connection = LibvirtSerial(Connection(), "xen://host/system", {}, self.host, log_in)
        self.opened: list[Connection] = []
        self.asked: list[Any] = []
        self.answers = threading.Event()
        self.answers.set()
        self.failing = False

        def do_open(uri: str, how: Any, keepalive: Any) -> Connection:
            self.asked.append((uri, how))
            self.answers.wait(TIMEOUT)
            self.opened.append(Connection(self.failing))
            return self.opened[-1]

        self.freed: list[Any] = []
        self.patch(libvirt_side_connection, "do_open", do_open)
        self.patch(libvirtmod, "virStreamFree", self.freed.append)
        self.addCleanup(self.end)

    async def end(self) -> None:
        """Check that no connection and no thread is left."""
        self.answers.set()
        for other in self.opened:
            other.stream.takes.set()
        await self.connection.close()
        await self.until(lambda: not self.connection._sides)
        self.assertEqual([other for other in self.opened if other.open or other.on_close], [])
        name = "a serial console of node node1"
        await self.until(lambda: not [one for one in threading.enumerate() if one.name.startswith(f"PoolThread-{name}")])

    async def until(self, look: Callable[[], Any]) -> None:
        passed = 0.0
        while not look():
            self.assertLess(passed, TIMEOUT)
            await deferLater(reactor, POLL, lambda: None)
            self.host.clock.advance(0)
            passed += POLL

    async def open(self) -> Any:
        viewer: Any = Viewer()
        await self.connection.open_serial(UUID, viewer)
        self.assertEqual(viewer.connections, 1)
        return viewer

    async def is_over(self, viewer: Any, side: Connection) -> None:
        """Check that a console has ended, with its connection and its thread."""
        await self.until(lambda: not side.open)
        self.assertEqual((viewer.losses, side.stream.aborted, side.stream.callback, side.on_close), (1, 1, None, None))
        self.assertEqual((side.stream._o, len(self.freed)), (None, sum(not other.open for other in self.opened)))

    async def test_each_has_its_own_connection(self) -> None:
        one, other = await self.open(), await self.open()
        self.assertEqual(self.asked, [("xen://host/system", log_in)] * 2)
        self.assertEqual(len(self.opened), 2)
        one.transport.write(b"one")
        other.transport.write(b"other")
        await self.until(lambda: [side.stream.sent for side in self.opened] == [b"one", b"other"])
        one.transport.loseConnection()
        await self.is_over(one, self.opened[0])
        self.assertEqual((other.losses, self.opened[1].open), (0, True))

    async def test_a_guest_that_reads_nothing(self) -> None:
        """It blocks no thread of the node (there are none for long calls here), and no other consoles."""
        quiet = await self.open()
        self.opened[0].stream.takes.clear()
        quiet.transport.write(b"x" * 3 * PIECE)
        other = await self.open()
        other.transport.write(b"y")
        await self.until(lambda: self.opened[1].stream.sent == b"y")
        quiet.transport.loseConnection()
        self.assertEqual(quiet.losses, 0)
        quiet.transport.abortConnection()
        self.assertEqual(quiet.losses, 1)
        self.opened[0].stream.takes.set()
        await self.is_over(quiet, self.opened[0])

    async def test_the_node_is_closed_or_lost(self) -> None:
        for end in (lambda: self.connection._lose("gone"), lambda: self.connection.close()):
            self.setUp()
            viewer = await self.open()
            side = self.opened[0]
            side.stream.takes.clear()
            viewer.transport.write(b"x" * PIECE)
            await maybeDeferred(end)
            self.assertEqual(viewer.losses, 1)
            side.stream.takes.set()
            await self.is_over(viewer, side)

    async def test_the_domain_stops(self) -> None:
        viewer = await self.open()
        self.opened[0].stream.say(b"bye")
        self.opened[0].stream.say(b"")
        await self.is_over(viewer, self.opened[0])
        self.assertEqual(viewer.seen, b"bye")

    async def test_the_domain_stops_while_nobody_reads(self) -> None:
        viewer = await self.open()
        viewer.transport.pauseProducing()
        self.opened[0].stream.say(b"bye")
        self.opened[0].stream.say(b"")
        await deferLater(reactor, POLL, lambda: None)
        self.assertEqual(viewer.losses, 0)
        viewer.transport.loseConnection()
        await self.is_over(viewer, self.opened[0])
        viewer.transport.resumeProducing()
        self.assertEqual(viewer.seen, b"")

    async def test_a_viewer_that_does_not_keep_up(self) -> None:
        viewer = await self.open()
        viewer.transport.pauseProducing()
        self.opened[0].stream.say(b"x" * (MOST_HELD + 1))
        await self.is_over(viewer, self.opened[0])

    async def test_its_connection_is_lost(self) -> None:
        """The node's own connection isn't affected."""
        viewer = await self.open()
        self.opened[0].on_close(None, 0, None)
        await self.is_over(viewer, self.opened[0])
        await self.open()

    async def test_an_event_that_comes_late(self) -> None:
        """libvirt's thread was about to report it when the stream was released."""
        viewer = await self.open()
        stream = self.opened[0].stream
        tell = stream.callback
        viewer.transport.abortConnection()
        await self.is_over(viewer, self.opened[0])
        tell(stream, libvirt.VIR_STREAM_EVENT_READABLE, stream.opaque)
        await deferLater(reactor, POLL, lambda: None)
        self.assertEqual(viewer.losses, 1)

    async def test_it_can_not_be_opened(self) -> None:
        self.failing = True
        failure = await self.assertFailure(self.connection.open_serial(UUID, Viewer()), DriverError)
        self.assertIn("not today", str(failure))
        await self.until(lambda: not self.opened[0].open)
        self.failing = False
        await self.open()

    async def test_no_connection_can_be_opened(self) -> None:
        def do_open(uri: str, how: Any, keepalive: Any) -> Connection:
            raise Unreachable("nobody there")

        self.patch(libvirt_side_connection, "do_open", do_open)
        failure = await self.assertFailure(self.connection.open_serial(UUID, Viewer()), DriverError)
        self.assertNotIsInstance(failure, Unreachable)  # which would mean that the node is lost

    async def test_the_host_accepts_no_connection(self) -> None:
        self.answers.clear()
        opening = self.connection.open_serial(UUID, Viewer())
        await self.until(lambda: self.asked)
        self.host.clock.advance(OPEN_SECONDS)
        failure = await self.assertFailure(opening, DriverError)
        self.assertIn("node1", str(failure))
        self.assertIn("max_clients", str(failure))
        self.assertEqual(len(self.connection._sides), 1, "it still holds a thread")
        self.answers.set()
        await self.until(lambda: not self.connection._sides)
        self.assertEqual([(side.open, side.taken) for side in self.opened], [(False, False)])

    async def test_opening_is_cancelled(self) -> None:
        self.answers.clear()
        viewer = Viewer()
        opening = self.connection.open_serial(UUID, viewer)
        await self.until(lambda: self.asked)
        opening.cancel()
        opening.addErrback(lambda failure: None)
        self.answers.set()
        await self.until(lambda: self.opened and not self.opened[0].open)
        self.assertEqual((viewer.connections, self.opened[0].taken), (0, False))

    async def test_too_many_consoles(self) -> None:
        self.patch(libvirt_console, "MOST_SERIAL", 2)
        viewers = [await self.open(), await self.open()]
        failure = await self.assertFailure(self.connection.open_serial(UUID, Viewer()), DriverError)
        self.assertEqual(str(failure), "Compute node node1 already has 2 open serial consoles: close one of them.")
        viewers[0].transport.loseConnection()
        await self.is_over(viewers[0], self.opened[0])
        await self.until(lambda: len(self.connection._sides) == 1)
        await self.open()
