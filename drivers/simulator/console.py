"""The consoles of the simulator's domains: a serial one that answers each line, and a screen for VNC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from fluidvm.driver import ISerialConsole, IVncConsole, WrongState
from fluidvm.drivers.console_transport import ConsoleTransport
from fluidvm.drivers.simulator.host import ON, SimulatedHost
from fluidvm.drivers.simulator.vnc import Screen

MOST_HELD = 2**20
"""Maximum number of bytes buffered for a slow viewer; an image of the screen has 12 KB."""
LONGEST_LINE = 2**16


class SimulatedTransport(ConsoleTransport):
    """
    A viewer's connection to a simulated console.

    @ivar typed: called with the viewer's input.
    """

    def __init__(self, clock: IReactorTime, viewer: IProtocol, forget: Callable[[SimulatedTransport], None]) -> None:
        self.typed: Callable[[bytes], None] = lambda data: None
        self._clock = clock
        self._viewer = viewer
        self._forget = forget
        self._coming = bytearray()
        self._ended = self._gone = False

    def show(self, data: bytes) -> None:
        """Send data to the viewer, soon."""
        if not self._coming:
            self._clock.callLater(0, self._deliver)
        self._coming += data
        if len(self._coming) > MOST_HELD:
            self._coming.clear()
            self.loseConnection()

    def _deliver(self) -> None:
        if self._gone:
            return
        if self._coming and not self._paused:
            data, self._coming = bytes(self._coming), bytearray()
            self._viewer.dataReceived(data)
        if self._ended and not self._gone:
            self._gone = True
            self._viewer.connectionLost(Failure(ConnectionDone()))

    def write(self, data: bytes) -> None:
        """Send input to the console."""
        if not self._ended:
            self.typed(data)

    def loseConnection(self) -> None:
        """Close the connection, soon."""
        if not self._ended:
            self._ended = True
            self._forget(self)
            self._clock.callLater(0, self._deliver)

    def abortConnection(self) -> None:
        """Close the connection, soon: no data is ever left unsent."""
        self.loseConnection()

    def resumeProducing(self) -> None:
        """Continue to deliver, soon."""
        self._paused = False
        self._clock.callLater(0, self._deliver)


@implementer(ISerialConsole, IVncConsole)
class SimulatedConsoles:
    """The verbs of these abilities. Consoles end when their domain stops or the connection is closed."""

    simulated: SimulatedHost
    clock: IReactorTime
    _do: Callable[..., Deferred[Any]]
    _serial: dict[str, SimulatedTransport]
    _screens: dict[SimulatedTransport, str]

    def open_serial(self, uuid: str, viewer: IProtocol) -> Deferred[None]:
        """Connect a viewer to a console on which the guest echoes each line and answers it."""

        def connect() -> None:
            name = self._on(uuid)
            former = self._serial.get(uuid)
            if former is not None:
                former.loseConnection()
            transport = SimulatedTransport(self.clock, viewer, self._forget_serial)
            self._serial[uuid] = transport
            line = bytearray()

            def typed(data: bytes) -> None:
                # Each line is echoed and answered; an incomplete line is only echoed.
                *lines, rest = data.replace(b"\r", b"\n").split(b"\n")
                for part in lines:
                    heard = bytes(line) + part
                    transport.show(part + b"\r\n" + name.encode() + b" heard: " + heard + b"\r\n")
                    line.clear()
                line.extend(rest[: LONGEST_LINE - len(line)])
                transport.show(rest)

            transport.typed = typed
            viewer.makeConnection(transport)

        return self._do("open_serial", connect)

    def open_vnc(self, uuid: str, viewer: IProtocol) -> Deferred[None]:
        """Connect a viewer to a screen that shows the same as C{screenshot}."""

        def connect() -> None:
            name = self._on(uuid)
            transport = SimulatedTransport(self.clock, viewer, self._forget_screen)
            self._screens[transport] = uuid
            screen = Screen(name, lambda: self.simulated.domain(uuid), transport.show, transport.loseConnection)
            transport.typed = screen.received
            viewer.makeConnection(transport)

        return self._do("open_vnc", connect)

    def _on(self, uuid: str) -> str:
        domain = self.simulated.domain(uuid)
        if domain.state not in ON:
            raise WrongState(f"Domain {domain.name} is {domain.state}: it has a console only while it is running or paused.")
        return domain.name

    def _forget_serial(self, transport: SimulatedTransport) -> None:
        self._serial = {uuid: other for uuid, other in self._serial.items() if other is not transport}

    def _forget_screen(self, transport: SimulatedTransport) -> None:
        self._screens.pop(transport, None)

    def end_consoles(self, uuid: str | None = None) -> None:
        """Close a domain's consoles; without a domain, all consoles."""
        serial = [transport for domain, transport in self._serial.items() if uuid in (None, domain)]
        screens = [transport for transport, domain in self._screens.items() if uuid in (None, domain)]
        for transport in serial + screens:
            transport.loseConnection()
