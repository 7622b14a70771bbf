"""The base class of consoles' transports, whatever carries the bytes."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IConsumer, IPushProducer, ITransport
from zope.interface import implementer


@implementer(IAddress)
class ConsoleAddress:
    """Placeholder: the ends of a console have no address."""


@implementer(ITransport, IConsumer, IPushProducer)
class ConsoleTransport:
    """A viewer's connection to a console. Subclasses carry the bytes."""

    _paused = False
    _producer: IPushProducer | None = None

    def write(self, data: bytes) -> None:
        """Send input to the console."""
        raise NotImplementedError

    def writeSequence(self, data: Any) -> None:
        """Send input to the console."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close the connection."""
        raise NotImplementedError

    def abortConnection(self) -> None:
        """Close the connection at once: input that hasn't been sent yet is dropped."""
        raise NotImplementedError

    def getPeer(self) -> ConsoleAddress:
        """The console's end."""
        return ConsoleAddress()

    def getHost(self) -> ConsoleAddress:
        """This end."""
        return ConsoleAddress()

    def pauseProducing(self) -> None:
        """Stop delivering output."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Continue to deliver output."""
        self._paused = False
        self._deliver()

    def _deliver(self) -> None:
        raise NotImplementedError

    def stopProducing(self) -> None:
        """Stop delivering output for good."""
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        Register a producer of input, which is paused while the console accepts nothing.

        @raise ValueError: it isn't a streaming producer.
        """
        if not streaming or not IPushProducer.providedBy(producer):
            raise ValueError("the producer must be a streaming producer")
        self._producer = producer

    def unregisterProducer(self) -> None:
        """The producer sends nothing more."""
        self._producer = None
