"""The ability to give domains CPU shares and rate limits. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from zope.interface import Interface

from fluidvm.driver.values import Shares


class IShares(Interface):
    """
    Domains can be given CPU shares and rate limits.

    L{IConnection.define_domain} applies those of its specification that the host supports and ignores the others;
    callers can use L{shareable} to find out beforehand.
    """

    def shareable() -> Deferred[Sequence[str]]:
        """
        List the fields of L{Shares} that this host supports; the list may be empty.

        Success changes nothing. Failure changes nothing. A repetition returns the same list while the connection
        lasts.
        """

    def set_shares(uuid: str, shares: Shares) -> Deferred[None]:
        """
        Change a domain's shares and rates: at once if it runs, and in its definition.

        After success L{get_shares} reports them, and they apply to each disk and interface that the domain has now, but to
        later ones only after another call. After failure they are as before. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        @raise Unsupported: a requested field isn't in L{shareable}.
        """

    def get_shares(uuid: str) -> Deferred[Shares]:
        """
        Return a domain's shares and rates: those in effect if it runs, else those of its definition.

        A rate is reported only if it applies to each of its disks or interfaces. Success changes nothing. Failure changes
        nothing. A repetition reads again.

        @raise NoSuchThing: no such domain.
        """
