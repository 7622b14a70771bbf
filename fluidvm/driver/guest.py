"""What can be done inside guests, and with containers. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from zope.interface import Interface

from fluidvm.driver.values import GuestNetwork, GuestOutput, Limits


class IGuest(Interface):
    """Something in a running domain's guest does what it is told: an agent, or its kernel's namespaces."""

    def run_in_guest(uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> Deferred[GuestOutput]:
        """
        Run a command as the guest's superuser.

        After success it has ended, whatever its exit code. After failure it may or may not have run. A repetition runs it
        again.

        @param argv: words, which reach the command as they are; no shell reads them.
        @param timeout: seconds that it may take. One that takes longer is killed, where the driver can.
        @return: of an output, what comes after its first 64 KiB may be left out.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it doesn't run, or nothing in it listens.
        @raise Unsupported: it was made without a way to be told.
        @raise DriverError: it didn't end in time, or said more than the driver takes, among others.
        """

    def set_password(uuid: str, user: str, password: str) -> Deferred[None]:
        """
        Give one of the guest's users another password.

        After success it counts. After failure the old one does. A repetition changes nothing.

        @param password: one line; it is in no command line and no log.
        @raise NoSuchThing: no such domain.
        @raise WrongState: as above.
        @raise Unsupported: as above.
        @raise DriverError: the guest refuses, or there is no such user.
        """

    def add_ssh_key(uuid: str, key: str) -> Deferred[None]:
        """
        Let an SSH key log in as the guest's superuser.

        After success it is among the C{authorized_keys}. After failure it isn't. A repetition changes nothing.

        @param key: a line of such a file.
        @raise NoSuchThing: no such domain.
        @raise WrongState: as above.
        @raise Unsupported: as above.
        """


class ITemplates(Interface):
    """
    Domains are made with a file system of their own, out of a template.

    L{IConnection.define_domain} makes it from the specification's template, where the domain isn't there yet; undefining
    removes it.
    """

    def list_templates() -> Deferred[Sequence[str]]:
        """
        Tell the templates' names.

        Success changes nothing. Failure changes nothing. A repetition reads anew.
        """


class IGuestNetwork(Interface):
    """The host tells a domain's guest who it is on the network: addresses, host's name, name servers."""

    def guest_network(uuid: str) -> Deferred[GuestNetwork]:
        """
        Tell what a domain's guest is told.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @raise NoSuchThing: no such domain.
        """

    def add_address(uuid: str, address: str) -> Deferred[None]:
        """
        Give a domain an address: at once if it runs, and in its definition.

        After success L{guest_network} tells it. After failure it doesn't. A repetition changes nothing.

        @param address: IPv4 or IPv6, with a prefix's length or without.
        @raise NoSuchThing: no such domain.
        @raise AlreadyThere: somebody else on the network has it.
        """

    def remove_address(uuid: str, address: str) -> Deferred[None]:
        """
        Take an address from a domain, at once if it runs, and from its definition.

        After success L{guest_network} doesn't tell it. After failure it is as before. A repetition (no such address)
        succeeds.

        @raise NoSuchThing: no such domain.
        """

    def set_hostname(uuid: str, name: str) -> Deferred[None]:
        """
        Give a domain a host's name.

        After success L{guest_network} tells it. After failure it is as before. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        """

    def set_nameservers(uuid: str, servers: Sequence[str], domains: Sequence[str]) -> Deferred[None]:
        """
        Give a domain these name servers and search domains, instead of those it had.

        After success L{guest_network} tells them. After failure it is as before. A repetition changes nothing.

        @param servers: one at least.
        @param domains: none: those that it had stay.
        @raise NoSuchThing: no such domain.
        """


class ILimits(Interface):
    """Domains share the host's kernel, which bounds more than their memory and CPUs."""

    def get_limits(uuid: str) -> Deferred[Limits]:
        """
        Tell a domain's bounds.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @raise NoSuchThing: no such domain.
        """

    def set_limits(uuid: str, limits: Limits) -> Deferred[None]:
        """
        Bound a domain otherwise: at once if it runs, and in its definition. What is C{None} stays as it is.

        After success L{get_limits} tells it. After failure it is as before. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        @raise DriverError: the host can't; more is in use already, for example.
        """
