"""
Consoles of domains, through libvirt: serial consoles by streams, VNC by a socket that libvirtd hands over.

A stream whose bytes the guest doesn't read blocks everything else on its connection, so each stream has its own.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Any
from weakref import WeakSet
from xml.etree import ElementTree

import libvirt
from twisted.internet.defer import CancelledError, TimeoutError
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory
from zope.interface import implementer

from fluidvm.driver import DomainState, DriverError, ISerialConsole, IVncConsole, Unreachable, Unsupported, WrongState
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domains import LibvirtDomains
from fluidvm.drivers.libvirt.errors import translate
from fluidvm.drivers.libvirt.side_connection import SideConnection
from fluidvm.drivers.libvirt.stream import StreamTransport

MOST_SERIAL = 100
"""
Maximum number of open serial consoles of one node. Each has a connection to its libvirtd (which accepts 5,000 by default,
C{max_clients}) and a thread here; over SSH, also a process on either side.
"""
OPEN_SECONDS = 30.0
"""Time-out in seconds for opening a console's connection: a libvirtd with too many connections lets new ones wait."""
KEEPALIVE = (30, 5)
"""
Like L{fluidvm.drivers.libvirt.connection.KEEPALIVE}, for a console's connection. libvirtd doesn't answer on it while the
guest reads nothing: the server ends such a console after 120 s, and the connection ends after 180 s. The node's own
connection detects that a host is lost.
"""
LOST = "The console's connection to its host has ended."


class LibvirtConsoles(LibvirtDomains):
    """Base class for consoles, which end with the connection to their host."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._consoles: WeakSet[Any] = WeakSet()
        self.on_lost(lambda reason: self._end_consoles())

    def _end_consoles(self) -> None:
        for transport in list(self._consoles):
            # They must end even if a guest doesn't read its input.
            transport.abortConnection()

    @verb
    async def close(self) -> None:
        self._end_consoles()
        await super().close()

    def _do_look(self, uuid: str) -> tuple[Any, ElementTree.Element]:
        """
        Get a running domain and its definition; blocks.

        @raise WrongState: it isn't running.
        """
        domain = self._do_find(uuid)
        state = self._do_state(domain)
        if state not in (DomainState.RUNNING, DomainState.PAUSED) or not domain.isActive():
            raise WrongState(f"Domain {domain.name()} is {state}; it has a console only while it is running or paused.")
        # libvirtd is trusted: it is root on that host.
        return domain, ElementTree.fromstring(domain.XMLDesc(0))  # noqa: S314

    def _check_open(self) -> None:
        """@raise Unreachable: the connection has been closed meanwhile, so that nothing would close a console opened now."""
        if self._closed or self._lost_reason is not None:
            raise Unreachable(self._lost_reason or f"{self._uri}: the connection is closed.")


@implementer(ISerialConsole)
class LibvirtSerial(LibvirtConsoles):
    """A host whose domains have serial consoles."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._sides: set[SideConnection] = set()

    @verb
    async def open_serial(self, uuid: str, viewer: IProtocol) -> None:
        subject = f"serial console of domain {uuid}"
        await self._call(subject, self._do_check_serial, uuid)
        side = self._new_side()
        try:
            opening = side.run(self._do_open_serial, side, subject, uuid)
            transport = await opening.addTimeout(OPEN_SECONDS, self._host.clock)
            self._check_open()
        except TimeoutError:
            side.end()
            raise DriverError(
                f"Compute node {self._host.node} accepted no connection for the {subject} within {OPEN_SECONDS:g} s: "
                "close other consoles, or raise max_clients in its libvirtd.conf."
            ) from None
        except (DriverError, CancelledError):
            side.end()
            raise
        self._consoles.add(transport)
        transport.connect(viewer)

    def _do_check_serial(self, uuid: str) -> None:
        domain, description = self._do_look(uuid)
        if description.find("devices/serial") is None and description.find("devices/console") is None:
            raise Unsupported(f"Domain {domain.name()} has no serial console.")

    def _new_side(self) -> SideConnection:
        """@raise DriverError: there are too many."""
        if len(self._sides) >= MOST_SERIAL:
            raise DriverError(
                f"Compute node {self._host.node} already has {MOST_SERIAL} open serial consoles: close one of them."
            )
        side = SideConnection(self._uri, self._log_in, self._host, "a serial console", keepalive=KEEPALIVE)
        self._sides.add(side)
        # Until then it may use a thread and a connection, though the console has no viewer anymore.
        side.over.addCallback(lambda _: self._sides.discard(side))
        return side

    def _do_open_serial(self, side: SideConnection, subject: str, uuid: str) -> StreamTransport:
        """Runs in the connection's own thread. L{SideConnection.end} cleans up what is left."""
        connection = side.do_connection()
        try:
            domain = connection.lookupByUUIDString(uuid)
            stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            transport = StreamTransport(stream, side, self._host)
            connection.registerCloseCallback(lambda *_: self._host.call_in_reactor(transport.end, LOST), None)
            side.before_close.append(connection.unregisterCloseCallback)
            # The latest viewer takes over, as with "virsh console --force": the previous one may be an abandoned window.
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
            transport.follow()
        except libvirt.libvirtError as error:
            told = translate(error, subject, True)
            # The loss of this connection says nothing about the node's own connection.
            raise DriverError(str(told)) if isinstance(told, Unreachable) else told from None
        return transport


class _Descriptor:
    """A VNC socket that isn't connected to a viewer yet."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        os.close(self.number)


@implementer(IVncConsole)
class LibvirtVnc(LibvirtConsoles):
    """A host whose domains have VNC screens. Only a libvirtd on the server's own machine can hand over their sockets."""

    @verb
    async def open_vnc(self, uuid: str, viewer: Any) -> None:
        abandoned = threading.Event()
        try:
            descriptor = await self._call(f"screen of domain {uuid}", self._do_open_vnc, uuid, abandoned)
        except CancelledError:
            abandoned.set()
            raise
        try:
            self._check_open()
            factory = Factory.forProtocol(lambda: viewer)
            # The reactor uses a copy of the descriptor.
            self._host.reactor.adoptStreamConnection(descriptor.number, socket.AF_UNIX, factory)
        finally:
            descriptor.close()
        self._consoles.add(viewer.transport)

    def _do_open_vnc(self, uuid: str, abandoned: threading.Event) -> _Descriptor:
        domain, description = self._do_look(uuid)
        kinds = [graphics.get("type") for graphics in description.iterfind("devices/graphics")]
        if "vnc" not in kinds:
            raise Unsupported(f"Domain {domain.name()} has no VNC screen; it gets one if it is created again.")
        if not self._local:
            raise Unsupported("A VNC screen can be opened only through a libvirtd on the server's own machine.")
        # The server has already checked the viewer's permission.
        flags = libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH
        descriptor = _Descriptor(domain.openGraphicsFD(kinds.index("vnc"), flags))
        if abandoned.is_set():
            descriptor.close()
        return descriptor
