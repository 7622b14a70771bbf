"""Tests of consoles."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from fluidvm.conformance.case import POLL, RUNNING, ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import NoSuchThing, Unreachable, WrongState

VERSION = b"RFB 003.008\n"
REPEAT = 2.0
"""Seconds after which a line is sent again: a guest that has just booted may have discarded earlier input."""


class Viewer(Protocol):
    """A client of a console."""

    transport: Any

    def __init__(self) -> None:
        self.seen = bytearray()
        self.connections = 0
        self.losses = 0

    def connectionMade(self) -> None:
        self.connections += 1

    def dataReceived(self, data: bytes) -> None:
        self.seen += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.losses += 1


class ConsoleCase(ContractCase):
    """Base class of the tests of both kinds of console."""

    verb: str

    async def open(self, uuid: str) -> Viewer:
        """Connect a viewer."""
        viewer = Viewer()
        promise = "the viewer is connected after success"
        await self.ask(self.verb, uuid, viewer, promise=promise)
        self.assertEqual(viewer.connections, 1, f"{self.verb}: {promise}, once")
        self.addCleanup(viewer.transport.loseConnection)
        return viewer

    async def until(self, promise: str, look: Callable[[], bool]) -> None:
        """Let time pass until a condition is true."""
        passed = 0.0
        while not look():
            self.assertLess(passed, self.factory.patience, f"{self.verb}: {promise}")
            await self.factory.pass_time(POLL)
            passed += POLL

    async def is_cut(self, viewer: Viewer, promise: str) -> None:
        """Check that a viewer has lost its connection, once."""
        await self.until(promise, lambda: viewer.losses > 0)
        await self.factory.pass_time(10 * POLL)
        self.assertEqual(viewer.losses, 1, f"{self.verb}: connectionLost is called once")

    async def test_how_it_ends(self) -> None:
        """Consoles end when the viewer, the domain or the connection does."""
        spec = await self.started()
        viewer = await self.open(spec.uuid)
        viewer.transport.loseConnection()
        await self.is_cut(viewer, "connectionLost is called after loseConnection")
        viewer = await self.open(spec.uuid)
        await self.ask("stop", spec.uuid)
        await self.is_cut(viewer, "connectionLost is called when the domain stops")
        await self.ask("start", spec.uuid)
        viewer = await self.open(spec.uuid)
        await self.ask("close")
        await self.is_cut(viewer, "connectionLost is called when the node's connection is closed")

    async def test_a_lost_connection(self) -> None:
        """Consoles end when the node's connection breaks."""
        spec = await self.started()
        viewer = await self.open(spec.uuid)
        await self.factory.cut(self.connection)
        await self.is_cut(viewer, "connectionLost is called when the node's connection breaks")

    async def test_refusals(self) -> None:
        """Consoles of missing or stopped domains, and of closed connections."""
        spec = await self.defined()
        viewer = Viewer()
        await self.refuses(NoSuchThing, "a domain that doesn't exist", self.verb, NOBODY, viewer)
        await self.refuses(WrongState, "a domain that isn't running", self.verb, spec.uuid, viewer)
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", self.verb, spec.uuid, viewer)
        self.assertEqual(viewer.connections, 0, f"{self.verb}: after failure the viewer has never been connected")


class SerialConsoleContract(ConsoleCase):
    """Tests of L{ISerialConsole}."""

    verb = "open_serial"

    async def answered(self, viewer: Viewer, promise: str) -> None:
        """Send the factory's line until it is answered."""
        line, answer = self.factory.console
        passed, typed = 0.0, 0.0
        while answer not in bytes(viewer.seen):
            if passed >= typed:
                viewer.transport.write(line + b"\n")
                typed = passed + REPEAT
            self.assertLess(passed, self.factory.patience, f"open_serial: {promise}; it said {bytes(viewer.seen[-500:])!r}")
            await self.factory.pass_time(POLL)
            passed += POLL

    async def test_both_ways(self) -> None:
        spec = await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        first = await self.open(spec.uuid)
        await self.answered(first, "input reaches the guest, and its output comes back")
        second = await self.open(spec.uuid)
        await self.is_cut(first, "another viewer disconnects the first one")
        await self.answered(second, "on repetition the other viewer has the console")
        await self.is_in(RUNNING, spec.uuid, "open_serial: viewers change nothing")

    async def test_two_domains(self) -> None:
        one, other = await self.started(), await self.started()
        for spec in (one, other):
            await self.factory.booted(self.connection, spec.uuid)
        viewer, silent = await self.open(one.uuid), await self.open(other.uuid)
        await self.answered(viewer, "each domain has its own console")
        self.assertEqual(silent.losses, 0, "open_serial: a viewer of another domain stays connected")
        self.assertNotIn(self.factory.console[1], bytes(silent.seen), "open_serial: each domain has its own console")

    async def test_a_viewer_that_pauses(self) -> None:
        spec = await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        viewer = await self.open(spec.uuid)
        await self.answered(viewer, "input reaches the guest, and its output comes back")
        await self.factory.pass_time(50 * POLL)
        transport = viewer.transport
        transport.pauseProducing()
        before = bytes(viewer.seen)
        transport.write(self.factory.console[0] + b"\n")
        await self.factory.pass_time(50 * POLL)
        self.assertEqual(bytes(viewer.seen), before, "open_serial: nothing comes after pauseProducing")
        transport.resumeProducing()
        promise = "earlier output comes after resumeProducing"
        await self.until(promise, lambda: self.factory.console[1] in bytes(viewer.seen[len(before) :]))


class VncConsoleContract(ConsoleCase):
    """Tests of L{IVncConsole}."""

    verb = "open_vnc"

    async def read(self, viewer: Viewer, count: int, promise: str) -> bytes:
        """Wait for a number of bytes, and consume them."""
        await self.until(promise, lambda: len(viewer.seen) >= count)
        taken = bytes(viewer.seen[:count])
        del viewer.seen[:count]
        return taken

    async def look(self, uuid: str) -> Viewer:
        """Connect like an RFB client (RFC 6143, section 7), and get a picture."""
        viewer = await self.open(uuid)
        promise = "the server begins with the RFB version"
        version = await self.read(viewer, 12, promise)
        self.assertEqual((version[:8], version[11:]), (b"RFB 003.", b"\n"), f"open_vnc: {promise}")
        viewer.transport.write(VERSION)
        promise = "it requires no password"
        (kinds,) = await self.read(viewer, 1, promise)
        self.assertIn(1, await self.read(viewer, kinds, promise), f"open_vnc: {promise}")
        viewer.transport.write(b"\x01")
        self.assertEqual(await self.read(viewer, 4, promise), bytes(4), f"open_vnc: {promise}")
        viewer.transport.write(b"\x01")  # others may stay
        promise = "the screen has a size and a name"
        width, height = struct.unpack_from(">HH", await self.read(viewer, 20, promise))
        self.assertTrue(width and height, f"open_vnc: {promise}")
        (length,) = struct.unpack(">I", await self.read(viewer, 4, promise))
        await self.read(viewer, length, promise)
        viewer.transport.write(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        promise = "a picture comes when it is requested"
        kind, rectangles = struct.unpack(">BxH", await self.read(viewer, 4, promise))
        self.assertEqual(kind, 0, f"open_vnc: {promise}")
        self.assertTrue(rectangles, f"open_vnc: {promise}")
        return viewer

    async def test_two_viewers(self) -> None:
        spec = await self.started()
        first = await self.look(spec.uuid)
        second = await self.look(spec.uuid)
        self.assertEqual((first.losses, second.losses), (0, 0), "open_vnc: several viewers can share the screen")
        await self.ask("pause", spec.uuid)
        await self.open(spec.uuid)
