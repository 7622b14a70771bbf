"""
What a hypervisor can do beyond the core: one interface per ability. Drivers import them from L{fluidvm.driver}.

Memory and disk sizes are MiB. The rules of L{fluidvm.driver} hold for each verb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from fluidvm.driver.values import (
    DomainDisk,
    DomainInterface,
    DomainSpec,
    DomainState,
    DomainStats,
    HostStats,
    Network,
    Pool,
    Progress,
    Snapshot,
    Volume,
)


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
    """
    The host has storage pools, with volumes that domains use as disks.

    What is in a volume is never looked at to find out its format: guests and users have written it, and it may name files of
    the host. The server knows what format each volume was made with; a verb that is given one goes by that alone, and has
    whatever tools it uses go by it. A raw volume is so many bytes, whatever they look like.
    """

    formats: tuple[str, ...] = Attribute("The formats that a volume can have, the default first.")

    def list_volumes(pool: str, formats: Mapping[str, str] = {}) -> Deferred[Sequence[Volume]]:
        """
        Tell the volumes of a pool.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @param formats: by volumes' names, what the server knows of them. A volume that isn't named, or turns out not to have
            the format, is told as raw, with the size of its file.
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


class IReset(Interface):
    """Running domains can be reset as by their machine's button."""

    def reset(uuid: str) -> Deferred[None]:
        """
        Reset a running domain at once; its guest isn't asked.

        After success the domain boots anew, and is running. After failure it is as before. A repetition resets again.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running.
        """


class ISave(Interface):
    """A running domain's memory can be saved to the host's disk, and the domain go on from there later."""

    def save(uuid: str, progress: Progress) -> Deferred[None]:
        """
        Save a running or paused domain's memory, and stop it.

        After success its state is C{saved}, and it takes no memory; stopping it throws away what was saved, starting it is
        refused. After failure it runs, or is paused, as before. On a saved domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is stopped.
        """

    def restore(uuid: str, progress: Progress) -> Deferred[None]:
        """
        Have a saved domain go on where it was saved.

        After success it is running, and nothing of what was saved is left. After failure it is saved as before. On a running
        domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is stopped or paused, and nothing is saved of it.
        """


class ISnapshots(Interface):
    """
    What a domain and its disks are can be kept under a name, and gone back to.

    A domain that L{IConnection.undefine_domain} forgets takes its snapshots with it; what they take of disks that stay is
    freed by L{delete_snapshot} only, beforehand.
    """

    def list_snapshots(uuid: str) -> Deferred[Sequence[Snapshot]]:
        """
        Tell a domain's snapshots, oldest first, whoever made them.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @raise NoSuchThing: no such domain.
        """

    def create_snapshot(uuid: str, name: str) -> Deferred[None]:
        """
        Keep what a domain is now: its disks and, if it runs, its memory.

        After success L{list_snapshots} tells it, and the domain goes on as it was. After failure nothing of it is left, and
        the domain goes on as it was. A repetition with the same name changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is neither running nor stopped, or has something now that couldn't be gone back to; the
            sentence says what.
        @raise Unsupported: one of its disks can't be kept; the sentence says which. Or it has none, and nothing else can be.
        """

    def revert_snapshot(uuid: str, name: str) -> Deferred[None]:
        """
        Make a domain's disks and memory what they were; its definition stays what it is now.

        After success its disks are as they were, and it is running if the snapshot has its memory, else stopped. After
        failure it is as before. A repetition makes it so again. What L{IShares} holds the domain to while it runs may be
        what it was then, until that is asked for again.

        @raise NoSuchThing: no such domain or snapshot.
        @raise WrongState: it is neither running nor stopped; or it has other disks than then or, where the memory is kept,
            other amounts or interfaces, and the hypervisor minds: the sentence says which.
        @raise Unsupported: the snapshot is of a kind that can't be gone back to here.
        """

    def delete_snapshot(uuid: str, name: str) -> Deferred[None]:
        """
        Forget a snapshot and free what it takes; the domain goes on as it is.

        After success L{list_snapshots} doesn't tell it. After failure it is there as before. A repetition (no such snapshot)
        succeeds.

        @raise NoSuchThing: no such domain.
        """


class IVolumes(Interface):
    """Volumes can be more than made and removed; the host tells how much room its pools have. Goes with L{IDisks}."""

    def list_pools() -> Deferred[Sequence[Pool]]:
        """
        Tell the storage pools.

        Success changes nothing. Failure changes nothing. A repetition reads anew.
        """

    def resize_volume(pool: str, name: str, format: str, size: int) -> Deferred[Volume]:
        """
        Make a volume that no running domain has larger.

        After success L{IDisks.list_volumes} tells the size. After failure it is as before. A repetition changes nothing.

        @param format: what it was made with; see L{IDisks}.
        @param size: MiB; not less than now.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: it is larger already, in use, or hasn't this format.
        """

    def clone_volume(pool: str, name: str, format: str, new: str, progress: Progress) -> Deferred[Volume]:
        """
        Copy a volume that no running domain has, within its pool.

        After success L{IDisks.list_volumes} tells the copy, of the same size and format, with the same bytes. After failure
        nothing of it is left. A repetition gives the copy that is there, untouched.

        @param format: what it was made with; see L{IDisks}. The copy has it, too.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: it is in use, or hasn't this format.
        """


class IDiskResize(Interface):
    """Running domains' disks can be made larger. Goes with L{IVolumes}."""

    def resize_disk(uuid: str, disk: DomainDisk, size: int) -> Deferred[None]:
        """
        Make a running domain's disk larger, at once; the guest sees it.

        After success the volume has the size. After failure it is as before. A repetition changes nothing.

        @param size: MiB; not less than now.
        @raise NoSuchThing: no such domain, or it has no such disk.
        @raise WrongState: it isn't running.
        """


class IVolumeSnapshots(Interface):
    """
    What is in a volume can be kept under a name, and gone back to. Goes with L{IDisks}.

    A volume that L{IDisks.delete_volume} removes takes its snapshots with it. They are others than those that a domain that
    has the volume as a disk keeps by L{ISnapshots}; neither disturbs the others, whatever they are called.
    """

    def list_volume_snapshots(pool: str, name: str) -> Deferred[Sequence[Snapshot]]:
        """
        Tell a volume's snapshots, oldest first; none has a memory.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @raise NoSuchThing: no such pool or volume.
        """

    def create_volume_snapshot(pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """
        Keep what is in a volume that no domain uses now.

        After success L{list_volume_snapshots} tells it. After failure nothing of it is left. A repetition with the same
        C{snapshot} changes nothing.

        @param format: what it was made with; see L{IDisks}.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: a domain that has it as a disk isn't stopped, or it hasn't this format.
        @raise Unsupported: a volume of its format keeps none.
        """

    def revert_volume(pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """
        Make a volume that no domain uses now what it was.

        After success its bytes are as they were. After failure it is as before. A repetition makes it so again.

        @param format: what it was made with; see L{IDisks}.
        @raise NoSuchThing: no such pool, volume or snapshot.
        @raise WrongState: a domain that has it as a disk isn't stopped, or it hasn't this format.
        """

    def delete_volume_snapshot(pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """
        Forget a snapshot of a volume that no domain uses now, and free what it takes.

        After success L{list_volume_snapshots} doesn't tell it. After failure it is there as before. A repetition (no such
        snapshot) succeeds.

        @param format: what it was made with; see L{IDisks}.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: a domain that has it as a disk isn't stopped, or it hasn't this format.
        """


class INetworks(Interface):
    """The host has networks, and domains can be given interfaces in them."""

    def list_networks() -> Deferred[Sequence[Network]]:
        """
        Tell the host's networks.

        Success changes nothing. Failure changes nothing. A repetition reads anew.
        """

    def attach_interface(uuid: str, interface: DomainInterface) -> Deferred[None]:
        """
        Give a domain an interface, at once if it runs, and in its definition.

        After success the domain's description tells it. After failure it doesn't, neither now nor after a start. A
        repetition changes nothing.

        @raise NoSuchThing: no such domain or network.
        @raise AlreadyThere: the domain has an interface of this address in another network.
        @raise WrongState: the domain's state allows no change; the sentence says which does.
        """

    def detach_interface(uuid: str, mac: str) -> Deferred[None]:
        """
        Take an interface from a domain, at once if it runs, and from its definition.

        After success the domain's description doesn't tell it. After failure (the guest doesn't let go) it is as before. A
        repetition (no such interface) succeeds.

        @raise NoSuchThing: no such domain.
        @raise WrongState: the guest doesn't let go, or the domain's state allows no change.
        """


class IStats(Interface):
    """The host tells what its domains and itself are using."""

    def domain_stats(uuid: str) -> Deferred[DomainStats]:
        """
        Tell what a domain has used since it started; of one that doesn't run, nothing.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @raise NoSuchThing: no such domain.
        """

    def host_stats() -> Deferred[HostStats]:
        """
        Tell what the host is doing.

        Success changes nothing. Failure changes nothing. A repetition reads anew.
        """


class IAdoption(Interface):
    """The host tells all of a domain that somebody else made, so that the server can take it over."""

    def get_spec(uuid: str) -> Deferred[DomainSpec]:
        """
        Tell a domain as it would be defined anew.

        Success changes nothing. Failure changes nothing. A repetition reads anew. A disk whose definition names no format is
        told as raw; what is in it isn't looked at.

        @raise NoSuchThing: no such domain.
        @raise Unsupported: it has something that a L{DomainSpec} can't tell; the sentence says what.
        """

    def volume_of(path: str, format: str) -> Deferred[Volume]:
        """
        Tell which volume has a path.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @param format: what L{get_spec} tells of the disk; see L{IDisks}.
        @raise NoSuchThing: none in any pool has.
        @raise Unsupported: it hasn't this format, or leads to other files.
        """


class IMigration(Interface):
    """Domains can be moved to another host of the same driver."""

    migrates_live: bool = Attribute("Whether running domains can be moved too.")

    def migrate(spec: DomainSpec, to: Any, live: bool, copy_storage: bool, progress: Progress) -> Deferred[None]:
        """
        Move a domain to another host.

        After success the other host knows it, in the state in which it was, and this one doesn't; what its disks were here
        stays. After failure (cancelling too) it is here as before, and the other host doesn't know it. A repetition, when it
        is there already, removes what is left of it here. It can be cancelled; it ends when it has truly stopped, and
        succeeds where it couldn't be stopped any more.

        @param spec: what it is defined as there: its disks have the other host's paths.
        @param to: a connection of the same driver to the other host.
        @param live: move it while it runs. A domain that is stopped is moved as it is.
        @param copy_storage: copy its disks' bytes to the volumes that C{spec} names there, which are new and as large; else
            both hosts have them.
        @raise NoSuchThing: no such domain here, or a file isn't there.
        @raise AlreadyThere: another domain there has the name.
        @raise WrongState: it is paused; or it runs and C{live} isn't asked for, where that matters to the driver.
        @raise Unsupported: these two hosts can't.
        @raise Unreachable: one of the two doesn't answer.
        """
