"""
What a hypervisor driver is: the one module that a driver imports.

A driver is an object that provides L{IDriver}; it opens connections that provide L{IConnection} and, for each thing the
hypervisor can do beyond the core, one interface more. Providing the interface I{is} the capability: nothing raises
C{NotImplementedError}, and what isn't provided is answered with fault 501 by the server.

Verbs return Deferreds (C{async def} does, through C{Deferred.fromCoroutine}); they must never block the reactor, and can be
repeated: each says what is so after success, what after failure, and what a repetition does. Memory and disk sizes are MiB.
Errors are the five below L{DriverError}; anything else that a verb raises is taken for a bug in the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface

from fluidvm.kinds import NAME_PATTERN, Array, Bool, Choice, Double, Int, Kind, Struct, Text

__all__ = [
    "NAME_PATTERN",
    "AlreadyThere",
    "Array",
    "Bool",
    "Boot",
    "Choice",
    "DomainDisk",
    "DomainInfo",
    "DomainSpec",
    "DomainState",
    "Double",
    "DriverError",
    "DriverHost",
    "HostInfo",
    "IConnection",
    "IDisks",
    "IDriver",
    "IEvents",
    "ILiveResize",
    "Int",
    "Interface",
    "Kind",
    "NoSuchThing",
    "Progress",
    "Struct",
    "Text",
    "Unreachable",
    "Unsupported",
    "Volume",
    "WrongState",
]  # fmt: skip

T = TypeVar("T")
Progress = Callable[[int], None]
"""Takes the percentage done, 0 to 100; called in the reactor's thread, never going down."""


class DriverError(Exception):
    """What a hypervisor failed to do, in one sentence that names the thing. Raise one of the subclasses where it fits."""


class NoSuchThing(DriverError):
    """The domain, volume, pool or file isn't there."""


class AlreadyThere(DriverError):
    """Another domain or volume has this identity."""


class WrongState(DriverError):
    """The thing's state doesn't allow it; the sentence says which state does."""


class Unsupported(DriverError):
    """This host's hypervisor can't do it, though the driver can elsewhere."""


class Unreachable(DriverError):
    """The host doesn't answer; what was asked may or may not have happened."""


class DomainState(str, Enum):
    """A domain's state as its hypervisor tells it; the words of the wire contract."""

    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    SAVED = "saved"
    STOPPING = "stopping"
    CRASHED = "crashed"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class HostInfo:
    """
    What a host is.

    @ivar vcpus: CPUs that it can run at once (threads).
    @ivar memory: MiB of RAM.
    @ivar hypervisor_version: e.g. C{QEMU 7.2.0}.
    @ivar driver_version: of the driver and what it speaks through, e.g. C{libvirt 9.0.0}.
    """

    vcpus: int
    memory: int
    hypervisor_version: str
    driver_version: str


@dataclass(frozen=True)
class DomainDisk:
    """
    A volume as a domain sees it.

    @ivar path: on the host, as L{Volume.path} gave it.
    @ivar target: the device's name in the guest: C{vda}, C{vdb}...
    """

    path: str
    format: str
    target: str


@dataclass(frozen=True)
class Boot:
    """
    What a domain boots: a kernel of the host's (direct kernel boot), or its devices in order.

    @ivar kernel: absolute path on the host; empty: none.
    @ivar initrd: absolute path on the host; empty: none.
    @ivar cmdline: the kernel's command line.
    @ivar order: C{disk}, C{network} and C{cdrom}, first wins; used when there is no kernel.
    """

    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    order: tuple[str, ...] = ("disk",)


@dataclass(frozen=True)
class DomainSpec:
    """
    A domain to define. Memory in MiB; C{max_vcpus} and C{max_memory} bound what it can have while it runs.

    @ivar disks: empty unless the connection provides L{IDisks}.
    @ivar autostart: whether the host starts it when it boots itself, with or without the server.
    """

    uuid: str
    name: str
    vcpus: int
    max_vcpus: int
    memory: int
    max_memory: int
    disks: tuple[DomainDisk, ...] = ()
    boot: Boot = field(default_factory=Boot)
    autostart: bool = False


@dataclass(frozen=True)
class DomainInfo:
    """A domain as its host describes it now. C{vcpus} and C{memory} (MiB) are what it is given, not what it uses."""

    uuid: str
    name: str
    state: DomainState
    vcpus: int
    max_vcpus: int
    memory: int
    max_memory: int
    disks: tuple[DomainDisk, ...] = ()
    autostart: bool = False


@dataclass(frozen=True)
class Volume:
    """A volume in a storage pool. C{size} is what a guest sees, in MiB, rounded up."""

    pool: str
    name: str
    path: str
    format: str
    size: int


class DriverHost(Protocol):
    """What the server lends a driver for one compute node."""

    clock: IReactorTime
    """The time: a driver that waits asks it, so that tests can turn it."""

    node: str
    """The compute node's name."""

    state_dir: Path
    """A directory (0700) of this node's own, for what the driver must remember; not made until the driver makes it."""

    def run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Call a blocking function in the node's own pool of one thread.

        Calls run in order. Cancelling the Deferred doesn't stop the thread.
        """

    def call_in_reactor(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in the reactor's thread, from any thread."""


class IDriver(Interface):
    """A kind of hypervisor. Found by entry point, group C{fluidvm.drivers}, whose name is the driver's."""

    name: str = Attribute("The name in C{add_compute_node} and in VM specs, e.g. C{kvm}.")
    summary: str = Attribute("One line for people.")
    options: Struct = Attribute("A L{Struct} kind: what C{add_compute_node} may be told beside the server's own options.")
    connection: type = Attribute("The class of its connections: what it implements are the driver's abilities.")

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
        @raise NoSuchThing: a disk's, kernel's or initrd's file isn't there, where the host checks it now.
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


class ILiveResize(Interface):
    """Running domains can be resized, within their maxima."""

    def resize_memory(uuid: str, memory: int) -> Deferred[None]:
        """
        Give a running domain another amount of memory, now and in its definition.

        After success the guest has it and L{get_domain} tells it, after a stop and a start too. After failure (the guest
        doesn't follow in time) amount and definition are as before. A repetition changes nothing.

        @param memory: MiB, at most the domain's maximum.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running, or C{memory} is over its maximum; the sentence says that it needs a stop.
        """

    def resize_vcpus(uuid: str, vcpus: int) -> Deferred[None]:
        """
        Give a running domain another number of virtual CPUs, now and in its definition.

        After success the domain has them and L{get_domain} tells it, after a stop and a start too. After failure number and
        definition are as before. A repetition changes nothing.

        @param vcpus: at most the domain's maximum.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running, C{vcpus} is over its maximum, or the guest doesn't let CPUs go; the sentence
            says that it needs a stop.
        """


class IDisks(Interface):
    """The host has storage pools, with volumes that domains use as disks."""

    formats: tuple[str, ...] = Attribute("The formats a volume can have, the default one first.")

    def list_volumes(pool: str) -> Deferred[Sequence[Volume]]:
        """
        Tell the volumes of a pool.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @raise NoSuchThing: no such pool.
        """

    def create_volume(pool: str, name: str, size: int, format: str, progress: Progress) -> Deferred[Volume]:
        """
        Make an empty volume.

        After success L{list_volumes} tells it. After failure nothing of it is left. A repetition with the same size and
        format gives the volume that is there, untouched.

        @param size: MiB.
        @raise NoSuchThing: no such pool.
        @raise AlreadyThere: the name is taken by a volume of another size or format.
        @raise DriverError: no space, among others.
        """

    def delete_volume(pool: str, name: str) -> Deferred[None]:
        """
        Remove a volume and its bytes.

        After success L{list_volumes} doesn't tell it. After failure it is as before. A repetition (no such volume) succeeds.

        @raise NoSuchThing: no such pool.
        """

    def attach_disk(uuid: str, disk: DomainDisk) -> Deferred[None]:
        """
        Give a domain a disk, at once if it runs, and in its definition.

        After success L{get_domain} tells the disk. After failure it doesn't, neither now nor after a start. A repetition
        changes nothing.

        @raise NoSuchThing: no such domain, or no such file.
        @raise AlreadyThere: the target is taken by another disk.
        @raise WrongState: the domain's state allows no change; the sentence says which does.
        """

    def detach_disk(uuid: str, target: str) -> Deferred[None]:
        """
        Take a disk from a domain, at once if it runs, and from its definition; the volume stays.

        After success L{get_domain} doesn't tell the disk and the guest has let go of it. After failure (the guest doesn't
        let go in time) it is as before. A repetition (no such target) succeeds.

        @raise NoSuchThing: no such domain.
        @raise WrongState: the guest doesn't let go, or the domain's state allows no change.
        """


class IEvents(Interface):
    """The host tells what happens to its domains, whoever did it."""

    def subscribe(callback: Callable[[str, DomainState | None], None]) -> None:
        """
        Call C{callback} with a domain's UUID and its new state, in the reactor, at each change.

        The state is C{None} when the domain isn't known any more. After success events come within a second. After failure
        none come. Each repetition adds a callback.
        """


ABILITIES: tuple[type[Interface], ...] = (IConnection, ILiveResize, IDisks, IEvents)
"""Every interface that a connection can provide, the core first."""
