"""What a console's transport has in common with every other, whatever carries its bytes."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IConsumer, IPushProducer, ITransport
from zope.interface import implementer


@implementer(IAddress)
class ConsoleAddress:
    """The end of a console has none."""


@implementer(ITransport, IConsumer, IPushProducer)
class ConsoleTransport:
    """A viewer's way to a console; what carries it is for subclasses."""

    _paused = False
    _producer: IPushProducer | None = None

    def write(self, data: bytes) -> None:
        """Type."""
        raise NotImplementedError

    def writeSequence(self, data: Any) -> None:
        """Type."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """End the connection."""
        raise NotImplementedError

    def abortConnection(self) -> None:
        """End the connection at once: what was typed and isn't sent yet is dropped."""
        raise NotImplementedError

    def getPeer(self) -> ConsoleAddress:
        """The console's end."""
        return ConsoleAddress()

    def getHost(self) -> ConsoleAddress:
        """This end."""
        return ConsoleAddress()

    def pauseProducing(self) -> None:
        """Deliver nothing."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver again."""
        self._paused = False
        self._deliver()

    def _deliver(self) -> None:
        raise NotImplementedError

    def stopProducing(self) -> None:
        """Deliver nothing any more."""
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        Have what is typed come no faster than it goes.

        @raise ValueError: it isn't a streaming one.
        """
        if not streaming or not IPushProducer.providedBy(producer):
            raise ValueError("the producer must be a streaming producer")
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Nothing more comes from it."""
        self._producer = None
