"""What domains show on their screens. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface


class IScreenshot(Interface):
    """Domains have screens, of which pictures can be taken."""

    def screenshot(uuid: str) -> Deferred[bytes]:
        """
        Take a picture of a domain's screen.

        Gives a PNG file (ISO/IEC 15948). Success changes nothing. Failure changes nothing. A repetition takes another.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it neither runs nor is paused.
        @raise Unsupported: this one has no screen.
        """
