"""Consoles of domains, as persistent connections. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from zope.interface import Interface


class ISerialConsole(Interface):
    """Domains have a serial console, which can be read and written."""

    def open_serial(uuid: str, viewer: IProtocol) -> Deferred[None]:
        """
        Connect a viewer to a domain's serial console.

        After success the viewer is connected (C{makeConnection}): it receives what the guest writes from now on, and what it
        writes is sent to the guest as input. Its transport behaves like that of a TCP connection: an C{ITransport},
        C{IConsumer} and C{IPushProducer}, with C{abortConnection}, which works even if the guest reads none of its input.
        C{connectionLost} is called once: after C{loseConnection}, when the domain stops or moves away, when another viewer
        takes over the console, or when the node's connection ends. After failure the viewer has never been connected, and
        nothing has changed. A repetition with another viewer disconnects the first one.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is neither running nor paused.
        @raise Unsupported: this domain has no serial console.
        """


class IVncConsole(Interface):
    """Domains have a screen, a keyboard and a mouse, which can be used through VNC."""

    def open_vnc(uuid: str, viewer: IProtocol) -> Deferred[None]:
        """
        Connect a viewer to a domain's screen.

        After success the viewer is connected as by L{ISerialConsole.open_serial}, to a server that speaks RFB (RFC 6143)
        and begins with its version. It must not ask for a password: FluidVM has already checked who is allowed to connect.
        C{connectionLost} is called as there, but several viewers can share the screen. After failure the viewer has never
        been connected, and nothing has changed. A repetition with another viewer connects both.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is neither running nor paused.
        @raise Unsupported: this domain has no VNC screen, or the connection to its node can't carry VNC.
        """
