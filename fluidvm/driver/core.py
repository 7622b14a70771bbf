"""What every driver provides: L{IDriver} and its connections' core; and the list of all abilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface

from fluidvm.driver.abilities import (
    IAdoption,
    IDiskResize,
    IDisks,
    IEvents,
    ILiveResize,
    IMigration,
    INetworks,
    IReset,
    ISave,
    ISnapshots,
    IStats,
    IVolumes,
    IVolumeSnapshots,
)
from fluidvm.driver.console import ISerialConsole, IVncConsole
from fluidvm.driver.guest import IGuest, IGuestNetwork, ILimits, ITemplates
from fluidvm.driver.images import IImages
from fluidvm.driver.screen import IScreenshot
from fluidvm.driver.shares import IShares
from fluidvm.driver.values import (
    DomainInfo,
    DomainSpec,
    HostInfo,
)
from fluidvm.model.kinds import Struct

T = TypeVar("T")


class DriverHost(Protocol):
    """What the server lends a driver for one compute node."""

    clock: IReactorTime
    """The time: a driver that waits asks it, so that tests can turn it."""

    reactor: Any
    """For processes and connections. What waits takes C{clock}."""

    node: str
    """The compute node's name."""

    state_dir: Path
    """A directory (0700) of this node's own, for what the driver must remember; not made until the driver makes it."""

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Call a blocking function in the node's own pool of one thread.

        Calls run in order. Cancelling the Deferred doesn't stop the thread.
        """

    def run_long(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Call a blocking function that may take minutes, such as a copy, beside the calls of L{run}.

        The node has a few threads for such calls. Cancelling the Deferred doesn't stop the thread.
        """

    def call_in_reactor(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in the reactor's thread, from any thread."""


class IDriver(Interface):
    """A kind of hypervisor. Found by entry point, group C{fluidvm.drivers}, whose name is the driver's."""

    name: str = Attribute("The name in C{add_compute_node} and in VM specs, e.g. C{kvm}.")
    summary: str = Attribute("A one-line description.")
    options: Struct = Attribute("A L{Struct} kind: the options that C{add_compute_node} accepts beside the server's own.")
    connection: type = Attribute(
        "The class of its connections. The interfaces that it implements are the driver's abilities."
    )

    def check_address(address: str) -> None:
        """
        Refuse an address that can't be one, without asking the network.

        @raise ValueError: in words that say what an address looks like.
        """

    def connect(address: str, options: Mapping[str, Any], host: DriverHost) -> Deferred[Any]:
        """
        Open a connection to a host.

        After success it has answered once, and what it provides is known. After failure nothing is left open.
        A repetition opens another connection.

        @param options: checked by C{options}.
        @return: fires with an L{IConnection}.
        @raise Unreachable: the host doesn't answer.
        @raise DriverError: it answers, but can't be used; the sentence says why.
        """


class IConnection(Interface):
    """A host's hypervisor: the core that every driver provides. Domains are named by their UUID alone."""

    def close() -> Deferred[None]:
        """
        Let go of the host; domains run on.

        Afterwards every verb fails with L{Unreachable}, and no event comes. It doesn't fail. A repetition does nothing.
        """

    def on_lost(callback: Callable[[str], None]) -> None:
        """
        Call C{callback} with the reason, once, in the reactor, when the host can't be reached any more.

        After success it is called at the latest when the next verb fails with L{Unreachable}. Not called after L{close}.
        Each repetition adds a callback.
        """

    def host_info() -> Deferred[HostInfo]:
        """
        Tell what the host is.

        Success changes nothing. Failure changes nothing. A repetition reads anew.
        """

    def list_domains() -> Deferred[Sequence[DomainInfo]]:
        """
        Tell every domain that the host knows, defined or running, whoever made it.

        Success changes nothing. Failure changes nothing. A repetition reads anew.
        """

    def get_domain(uuid: str) -> Deferred[DomainInfo]:
        """
        Tell one domain.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @raise NoSuchThing: no such domain.
        """

    def define_domain(spec: DomainSpec) -> Deferred[None]:
        """
        Make a domain known to the host, stopped; or, where this UUID is known and stopped, give it this definition.

        After success L{get_domain} tells what was asked, and the host remembers it over its own restart. After failure the
        host knows what it knew before. A repetition changes nothing.

        @raise AlreadyThere: another domain has the name.
        @raise WrongState: the domain runs.
        @raise NoSuchThing: a network, or a disk's, kernel's or initrd's file isn't there, where the host checks it now.
        """

    def undefine_domain(uuid: str) -> Deferred[None]:
        """
        Make the host forget a stopped domain; its volumes stay.

        After success L{list_domains} doesn't tell it. After failure it is as before. A repetition (no such domain) succeeds.

        @raise WrongState: the domain runs.
        """

    def start(uuid: str) -> Deferred[None]:
        """
        Boot a domain.

        After success it is running. After failure it is stopped. On a running domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain, or a file it needs is missing.
        @raise WrongState: it is paused.
        """

    def shutdown(uuid: str) -> Deferred[None]:
        """
        Ask a guest to shut itself down; doesn't wait for it.

        After success the guest has been asked. After failure it hasn't. A repetition asks again; on a stopped domain it
        succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is paused.
        @raise NotReady: the guest can't be asked yet, for it boots. The server asks again, as it does while the guest is up.
        """

    def stop(uuid: str) -> Deferred[None]:
        """
        Pull the plug.

        After success the domain is stopped. After failure it is as before. On a stopped domain it succeeds and changes
        nothing.

        @raise NoSuchThing: no such domain.
        """

    def reboot(uuid: str) -> Deferred[None]:
        """
        Ask a guest to reboot; doesn't wait for it.

        After success the guest has been asked and the domain stays running. After failure it hasn't. A repetition asks
        again.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running.
        """

    def pause(uuid: str) -> Deferred[None]:
        """
        Freeze a running domain in memory.

        After success it is paused. After failure it is as before. On a paused domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is stopped.
        """

    def resume(uuid: str) -> Deferred[None]:
        """
        Let a paused domain go on.

        After success it is running. After failure it is as before. On a running domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is stopped.
        """

    def set_memory(uuid: str, memory: int) -> Deferred[None]:
        """
        Give a stopped domain another amount of memory, and as its maximum too where that is less.

        After success L{get_domain} tells it. After failure it is as before. A repetition changes nothing.

        @param memory: MiB.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't stopped (see L{ILiveResize}).
        """

    def set_vcpus(uuid: str, vcpus: int) -> Deferred[None]:
        """
        Give a stopped domain another number of virtual CPUs, and as its maximum too where that is less.

        After success L{get_domain} tells it. After failure it is as before. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't stopped (see L{ILiveResize}).
        """


class IPatience(Interface):
    """
    Some verbs take longer than the server waits (C{--node-timeout}) and tell of no progress.

    A connection may provide it beside its abilities. Its driver watches itself over what takes so long.
    """

    patience: Mapping[str, float] = Attribute("Timeouts by verb, in seconds. The server's timeout applies to all others.")


ABILITIES: tuple[type[Interface], ...] = (
    IConnection,
    ILiveResize,
    IDisks,
    IEvents,
    IStats,
    IVolumes,
    ISave,
    IReset,
    INetworks,
    IAdoption,
    IMigration,
    IShares,
    IDiskResize,
    ISnapshots,
    IGuest,
    ITemplates,
    IGuestNetwork,
    ILimits,
    IVolumeSnapshots,
    IScreenshot,
    ISerialConsole,
    IVncConsole,
    IImages,
)
"""Every interface that a connection can provide, the core first."""
