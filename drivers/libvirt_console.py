"""Domains' consoles, through libvirt: serial ones by streams, VNC by a socket that libvirtd hands over."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any
from weakref import WeakSet
from xml.etree import ElementTree

import libvirt
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory
from zope.interface import implementer

from fluidvm.driver import DomainState, ISerialConsole, IVncConsole, Unreachable, Unsupported, WrongState

from .libvirt_connection import verb
from .libvirt_domains import LibvirtDomains
from .libvirt_stream import StreamTransport


class LibvirtConsoles(LibvirtDomains):
    """What all consoles share: they end with the connection to their host."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._consoles: WeakSet[Any] = WeakSet()
        self.on_lost(lambda reason: self._end_consoles())

    def _end_consoles(self) -> None:
        for transport in list(self._consoles):
            transport.loseConnection()

    @verb
    async def close(self) -> None:
        self._end_consoles()
        await super().close()

    async def _open(self, subject: str, uuid: str, opening: Any) -> Any:
        """
        Open something of a domain that runs, in the node's thread.

        @param opening: makes it of the domain and its definition; what it makes has C{close}, for when nobody waits.
        """
        abandoned = threading.Event()

        def do_open() -> Any:
            domain = self._do_find(uuid)
            state = self._do_state(domain)
            if state not in (DomainState.RUNNING, DomainState.PAUSED) or not domain.isActive():
                raise WrongState(f"Domain {domain.name()} is {state}; it has a console when it runs.")
            # libvirtd is trusted: it is root on that host.
            made = opening(domain, ElementTree.fromstring(domain.XMLDesc(0)))  # noqa: S314
            if abandoned.is_set():
                made.close()
            return made

        try:
            return await self._call(f"{subject} of domain {uuid}", do_open)
        except CancelledError:
            abandoned.set()
            raise

    def _check_open(self) -> None:
        """@raise Unreachable: the connection has ended meanwhile, and nobody would end a console that is opened now."""
        if self._closed or self._lost_reason is not None:
            raise Unreachable(self._lost_reason or f"{self._uri}: the connection is closed.")


@implementer(ISerialConsole)
class LibvirtSerial(LibvirtConsoles):
    """A host whose domains have serial consoles."""

    @verb
    async def open_serial(self, uuid: str, viewer: IProtocol) -> None:
        transport = await self._open("serial console", uuid, self._do_open_serial)
        try:
            self._check_open()
        except Unreachable:
            await self._host.run_long(transport.close)
            raise
        self._consoles.add(transport)
        transport.connect(viewer)

    def _do_open_serial(self, domain: Any, description: ElementTree.Element) -> StreamTransport:
        if description.find("devices/serial") is None and description.find("devices/console") is None:
            raise Unsupported(f"Domain {domain.name()} has no serial console.")
        stream = self._connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        # Who comes later takes it, as by "virsh console --force": the former may be a window that nobody looks at.
        domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        transport = StreamTransport(stream, self._host)
        transport.follow()
        return transport


class _Descriptor:
    """A screen's socket, before a viewer has it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        os.close(self.number)


@implementer(IVncConsole)
class LibvirtVnc(LibvirtConsoles):
    """A host whose domains have screens for VNC, where libvirtd is on this machine: a socket is handed over by no other."""

    @verb
    async def open_vnc(self, uuid: str, viewer: Any) -> None:
        descriptor = await self._open("screen", uuid, self._do_open_vnc)
        try:
            self._check_open()
            factory = Factory.forProtocol(lambda: viewer)
            # It takes a copy of the descriptor.
            self._host.reactor.adoptStreamConnection(descriptor.number, socket.AF_UNIX, factory)
        finally:
            descriptor.close()
        self._consoles.add(viewer.transport)

    def _do_open_vnc(self, domain: Any, description: ElementTree.Element) -> _Descriptor:
        kinds = [graphics.get("type") for graphics in description.iterfind("devices/graphics")]
        if "vnc" not in kinds:
            raise Unsupported(f"Domain {domain.name()} has no screen for VNC; made anew, it has.")
        if not self._local:
            raise Unsupported("A screen's connection can be had from a libvirtd on the server's own machine alone.")
        # Whoever comes here has been let in by the server.
        flags = libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH
        return _Descriptor(domain.openGraphicsFD(kinds.index("vnc"), flags))
