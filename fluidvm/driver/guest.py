"""Abilities inside guests, and abilities of containers. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from zope.interface import Interface

from fluidvm.driver.values import GuestNetwork, GuestOutput, Limits


class IGuest(Interface):
    """Commands can be run in the guest of a running domain, through an agent or through its namespaces."""

    def run_in_guest(uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> Deferred[GuestOutput]:
        """
        Run a command as the guest's superuser.

        After success it has ended, whatever its exit code. After failure it may or may not have run. A repetition runs it
        again.

        @param argv: the command's arguments, which are passed on as they are, without a shell.
        @param timeout: the maximum duration in seconds. A command that takes longer is killed if the driver can do that.
        @return: each output may be cut after its first 64 KiB.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running, or nothing in it listens for commands.
        @raise Unsupported: it was created without a channel for commands.
        @raise DriverError: for example, it didn't end in time, or wrote more than the driver accepts.
        """

    def set_password(uuid: str, user: str, password: str) -> Deferred[None]:
        """
        Change the password of one of the guest's users.

        After success the new password is valid. After failure the old one still is. A repetition changes nothing.

        @param password: one line; it must not appear in a command line or in a log.
        @raise NoSuchThing: no such domain.
        @raise WrongState: as above.
        @raise Unsupported: as above.
        @raise DriverError: the guest refuses, or there is no such user.
        """

    def add_ssh_key(uuid: str, key: str) -> Deferred[None]:
        """
        Allow logins as the guest's superuser with an SSH key.

        After success it is in C{authorized_keys}. After failure it isn't. A repetition changes nothing.

        @param key: a line of such a file.
        @raise NoSuchThing: no such domain.
        @raise WrongState: as above.
        @raise Unsupported: as above.
        """


class ITemplates(Interface):
    """
    Domains get their own file system, which is created from a template.

    L{IConnection.define_domain} creates it from the specification's template if the domain doesn't exist yet;
    L{IConnection.undefine_domain} removes it.
    """

    def list_templates() -> Deferred[Sequence[str]]:
        """
        List the templates by name.

        Success changes nothing. Failure changes nothing. A repetition reads again.
        """


class IGuestNetwork(Interface):
    """The host configures the network of a domain's guest: addresses, host name, name servers."""

    def guest_network(uuid: str) -> Deferred[GuestNetwork]:
        """
        Return the network settings of a domain's guest.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @raise NoSuchThing: no such domain.
        """

    def add_address(uuid: str, address: str) -> Deferred[None]:
        """
        Add an address to a domain: at once if it runs, and in its definition.

        After success L{guest_network} reports it. After failure it doesn't. A repetition changes nothing.

        @param address: IPv4 or IPv6, with or without a prefix length.
        @raise NoSuchThing: no such domain.
        @raise AlreadyThere: another machine on the network has it.
        """

    def remove_address(uuid: str, address: str) -> Deferred[None]:
        """
        Remove an address from a domain: at once if it runs, and in its definition.

        After success L{guest_network} doesn't report it. After failure it is as before. A repetition (no such address)
        succeeds.

        @raise NoSuchThing: no such domain.
        """

    def set_hostname(uuid: str, name: str) -> Deferred[None]:
        """
        Set a domain's host name.

        After success L{guest_network} reports it. After failure it is as before. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        """

    def set_nameservers(uuid: str, servers: Sequence[str], domains: Sequence[str]) -> Deferred[None]:
        """
        Replace a domain's name servers and search domains.

        After success L{guest_network} reports them. After failure it is as before. A repetition changes nothing.

        @param servers: at least one.
        @param domains: if empty, the current ones stay.
        @raise NoSuchThing: no such domain.
        """


class ILimits(Interface):
    """Domains share the host's kernel, which can limit more than their memory and CPUs."""

    def get_limits(uuid: str) -> Deferred[Limits]:
        """
        Return a domain's limits.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @raise NoSuchThing: no such domain.
        """

    def set_limits(uuid: str, limits: Limits) -> Deferred[None]:
        """
        Change a domain's limits: at once if it runs, and in its definition. Fields that are C{None} stay as they are.

        After success L{get_limits} reports them. After failure it is as before. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        @raise DriverError: the host can't set them, for example because more is in use.
        """
