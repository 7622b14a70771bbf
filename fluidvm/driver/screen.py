"""Screenshots of domains. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface


class IScreenshot(Interface):
    """Domains have screens, of which screenshots can be taken."""

    def screenshot(uuid: str) -> Deferred[bytes]:
        """
        Take a screenshot of a domain.

        Returns a PNG file (ISO/IEC 15948). Success changes nothing. Failure changes nothing. A repetition takes another one.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is neither running nor paused.
        @raise Unsupported: this domain has no screen.
        """
