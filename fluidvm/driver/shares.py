"""The ability to hold domains to shares and rates. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from zope.interface import Interface

from fluidvm.driver.values import Shares


class IShares(Interface):
    """
    Domains can be held to shares and rates.

    L{IConnection.define_domain} gives a domain those of its specification, as far as the host can; what the host can't is
    left out, whoever asks finds out by L{shareable} beforehand.
    """

    def shareable() -> Deferred[Sequence[str]]:
        """
        Tell which fields of L{Shares} this host can hold domains to; it may be none.

        Success changes nothing. Failure changes nothing. A repetition tells the same, as long as the connection lives.
        """

    def set_shares(uuid: str, shares: Shares) -> Deferred[None]:
        """
        Give a domain other shares and rates: at once if it runs, and in its definition.

        After success L{get_shares} tells them, and each disk and interface that it has now is held to them; one that it gets
        later isn't, until this is asked again. After failure they are as before. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        @raise Unsupported: something is asked for that isn't among L{shareable}.
        """

    def get_shares(uuid: str) -> Deferred[Shares]:
        """
        Tell a domain's shares and rates: those that hold now if it runs, else those of its definition.

        A rate is told where each of its disks, or interfaces, is held to it. Success changes nothing. Failure changes
        nothing. A repetition reads anew.

        @raise NoSuchThing: no such domain.
        """
