"""Domains' consoles, as connections that stay. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from zope.interface import Interface


class ISerialConsole(Interface):
    """Domains have a serial console, which can be read and written."""

    def open_serial(uuid: str, viewer: IProtocol) -> Deferred[None]:
        """
        Connect a viewer to a domain's serial console.

        After success the viewer is connected (C{makeConnection}): it gets what the guest writes from now on, and what it
        writes is typed. Its transport is as a TCP connection's: an C{ITransport}, C{IConsumer} and C{IPushProducer}, with
        C{abortConnection}, which ends it though the guest takes nothing of what was typed.
        C{connectionLost} is called once: after C{loseConnection}, when the domain stops or moves away, when another viewer
        takes the console, and when the node's connection ends. After failure the viewer has never been connected, and
        nothing has changed. On repetition, with another viewer, that one takes the console from the former.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it neither runs nor is paused.
        @raise Unsupported: this one has no serial console.
        """


class IVncConsole(Interface):
    """Domains have a screen, a keyboard and a mouse, which are used by VNC."""

    def open_vnc(uuid: str, viewer: IProtocol) -> Deferred[None]:
        """
        Connect a viewer to a domain's screen.

        After success the viewer is connected as by L{ISerialConsole.open_serial}, to a server that speaks RFB (RFC 6143)
        and begins with its version; it wants no password: who may come is the server's to say. C{connectionLost} is called
        as there, but viewers don't take the screen from each other. After failure the viewer has never been connected, and
        nothing has changed. On repetition, with another viewer, both have it.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it neither runs nor is paused.
        @raise Unsupported: this one has no screen for VNC, or the way to its node can't carry it.
        """
