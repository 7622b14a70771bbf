"""What every driver must provide, L{IDriver} and L{IConnection}, and the list of all abilities."""

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
    """What the server provides to a driver for one compute node."""

    clock: IReactorTime
    """The clock. A driver must use it whenever it waits, so that tests can control the time."""

    reactor: Any
    """For processes and connections. For time-outs, use C{clock}."""

    node: str
    """The compute node's name."""

    state_dir: Path
    """A directory (mode 0700) for data that the driver must store for this node. The driver creates it when it needs it."""

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Call a blocking function in the node's own thread.

        Calls run one after another, in order. Cancelling the Deferred doesn't stop the thread.
        """

    def run_long(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Call a blocking function that may take minutes, such as a copy, in parallel with the calls of L{run}.

        The node has a few threads for such calls. Cancelling the Deferred doesn't stop the thread.
        """

    def call_in_reactor(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in the reactor's thread, from any thread."""


class IDriver(Interface):
    """A kind of hypervisor. Found by an entry point of the group C{fluidvm.drivers} with the driver's name."""

    name: str = Attribute("The name in C{add_compute_node} and in VM specs, e.g. C{kvm}.")
    summary: str = Attribute("A one-line description.")
    options: Struct = Attribute("A L{Struct} kind: the options that C{add_compute_node} accepts beside the server's own.")
    connection: type = Attribute(
        "The class of its connections. The interfaces that it implements are the driver's abilities."
    )

    def check_address(address: str) -> None:
        """
        Refuse an address that isn't valid, without using the network.

        @raise ValueError: its text says what an address looks like.
        """

    def connect(address: str, options: Mapping[str, Any], host: DriverHost) -> Deferred[Any]:
        """
        Open a connection to a host.

        After success the host has answered once, and what the connection provides is known. After failure nothing is left
        open. A repetition opens another connection.

        @param options: already checked against C{options}.
        @return: fires with an L{IConnection}.
        @raise Unreachable: the host doesn't answer.
        @raise DriverError: the host answers, but can't be used; the message says why.
        """


class IConnection(Interface):
    """A connection to one host: the core that every driver provides. Domains are identified by their UUID alone."""

    def close() -> Deferred[None]:
        """
        Close the connection; domains keep running.

        Afterwards every verb fails with L{Unreachable}, and no events are sent. It must not fail. A repetition does nothing.
        """

    def on_lost(callback: Callable[[str], None]) -> None:
        """
        Call C{callback} with the reason, once, in the reactor's thread, when the host can no longer be reached.

        It is called at the latest when the next verb fails with L{Unreachable}. It isn't called after L{close}.
        Each repetition adds a callback.
        """

    def host_info() -> Deferred[HostInfo]:
        """
        Describe the host: its hardware and its hypervisor.

        Success changes nothing. Failure changes nothing. A repetition reads again.
        """

    def list_domains() -> Deferred[Sequence[DomainInfo]]:
        """
        List all domains of the host, defined or running, whoever created them.

        Success changes nothing. Failure changes nothing. A repetition reads again.
        """

    def get_domain(uuid: str) -> Deferred[DomainInfo]:
        """
        Describe one domain.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @raise NoSuchThing: no such domain.
        """

    def define_domain(spec: DomainSpec) -> Deferred[None]:
        """
        Define a domain, which is then stopped; or, if a stopped domain with this UUID exists, replace its definition.

        After success L{get_domain} reports what was requested, and the definition survives a restart of the host. After
        failure the host's definitions are as before. A repetition changes nothing.

        @raise AlreadyThere: another domain has the name.
        @raise WrongState: the domain runs.
        @raise NoSuchThing: a network, or the file of a disk, kernel or initrd, doesn't exist, if the host checks that now.
        """

    def undefine_domain(uuid: str) -> Deferred[None]:
        """
        Remove the definition of a stopped domain; its volumes stay.

        After success L{list_domains} doesn't list it. After failure it is as before. A repetition (no such domain) succeeds.

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
        Ask a guest to shut down, without waiting until it has.

        After success the guest has been asked. After failure it hasn't. A repetition asks again; on a stopped domain it
        succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is paused.
        @raise NotReady: the guest is booting and can't be asked yet. The server asks again, as it does while the guest runs.
        """

    def stop(uuid: str) -> Deferred[None]:
        """
        Stop a domain at once, without asking its guest.

        After success the domain is stopped. After failure it is as before. On a stopped domain it succeeds and changes
        nothing.

        @raise NoSuchThing: no such domain.
        """

    def reboot(uuid: str) -> Deferred[None]:
        """
        Ask a guest to reboot, without waiting until it has.

        After success the guest has been asked and the domain stays running. After failure it hasn't. A repetition asks
        again.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running.
        """

    def pause(uuid: str) -> Deferred[None]:
        """
        Pause a running domain; it stays in memory.

        After success it is paused. After failure it is as before. On a paused domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is stopped.
        """

    def resume(uuid: str) -> Deferred[None]:
        """
        Resume a paused domain.

        After success it is running. After failure it is as before. On a running domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is stopped.
        """

    def set_memory(uuid: str, memory: int) -> Deferred[None]:
        """
        Change the amount of memory of a stopped domain, and raise its maximum if that is less.

        After success L{get_domain} reports it. After failure it is as before. A repetition changes nothing.

        @param memory: MiB.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't stopped (see L{ILiveResize}).
        """

    def set_vcpus(uuid: str, vcpus: int) -> Deferred[None]:
        """
        Change the number of virtual CPUs of a stopped domain, and raise its maximum if that is less.

        After success L{get_domain} reports it. After failure it is as before. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't stopped (see L{ILiveResize}).
        """


class IPatience(Interface):
    """
    Timeouts for verbs that take longer than the server waits (C{--node-timeout}) and report no progress.

    A connection can provide it in addition to its abilities. The driver itself must then detect when such a verb hangs.
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
"""All interfaces that a connection can provide, the core first."""
