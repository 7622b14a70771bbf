"""The simulator's consoles with too much data: they buffer a limited number of bytes."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.drivers.simulator.console import MOST_HELD, SimulatedTransport
from fluidvm.drivers.simulator.vnc import VERSION, Screen


class Viewer(Protocol):
    seen = losses = 0

    def dataReceived(self, data: bytes) -> None:
        self.seen += len(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.losses += 1


class FloodTests(SynchronousTestCase):
    def test_a_viewer_that_reads_nothing_is_disconnected(self) -> None:
        clock, viewer = Clock(), Viewer()
        gone: list[Any] = []
        transport = SimulatedTransport(clock, viewer, gone.append)
        transport.pauseProducing()
        for _ in range(MOST_HELD // 2**16 + 2):
            transport.show(b"x" * 2**16)
        self.assertEqual(gone, [transport])
        clock.advance(0)
        self.assertEqual((viewer.seen, viewer.losses), (0, 1))

    def test_simultaneous_requests_get_one_picture(self) -> None:
        shown: list[Any] = []
        screen = Screen("web1", lambda: None, shown.append, lambda: None)  # type: ignore[arg-type, return-value]
        self.patch(screen, "_picture", lambda: b"picture")
        screen.received(VERSION)
        screen.received(b"\x01")
        screen.received(b"\x01")
        screen.received(b"\x03\x00" + bytes(8))
        screen.received((b"\x03\x00" + bytes(8)) * 5000)
        self.assertEqual(shown.count(b"picture"), 2)
