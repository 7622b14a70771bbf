"""
Abilities: what a hypervisor can do beyond the core, one interface each. Drivers import them from L{fluidvm.driver}.

Memory and disk sizes are in MiB. The rules of L{fluidvm.driver} hold for each verb.
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
    """Running domains can be resized, up to their maximum."""

    def resize_memory(uuid: str, memory: int) -> Deferred[None]:
        """
        Change the amount of memory of a running domain, at once and in its definition.

        After success the guest has it and L{get_domain} reports it, also after a stop and a start. After failure (the guest
        doesn't change its memory in time) amount and definition are as before. A repetition changes nothing.

        @param memory: MiB, at most the domain's maximum.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running, or C{memory} exceeds its maximum; the sentence says that it needs a stop.
        """

    def resize_vcpus(uuid: str, vcpus: int) -> Deferred[None]:
        """
        Change the number of virtual CPUs of a running domain, at once and in its definition.

        After success the domain has them and L{get_domain} reports it, also after a stop and a start. After failure number
        and definition are as before. A repetition changes nothing.

        @param vcpus: at most the domain's maximum.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running, C{vcpus} exceeds its maximum, or the guest doesn't release CPUs; the sentence
            says that it needs a stop.
        """


class IDisks(Interface):
    """
    The host has storage pools with volumes, which domains use as disks.

    The contents of a volume must never be used to find out its format: guests and users write them, and they can refer to
    files of the host. The server knows the format with which each volume was created. A verb that is given a format must use
    that format alone, and pass it to all tools. A raw volume is a sequence of bytes, whatever they look like.
    """

    formats: tuple[str, ...] = Attribute("The formats that a volume can have, the default first.")

    def list_volumes(pool: str, formats: Mapping[str, str] = {}) -> Deferred[Sequence[Volume]]:
        """
        List the volumes of a pool.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @param formats: the formats that the server knows, by the volumes' names. A volume that isn't named, or turns out not
            to have that format, is reported as raw, with the size of its file.
        @raise NoSuchThing: no such pool.
        """

    def create_volume(pool: str, name: str, size: int, format: str, progress: Progress) -> Deferred[Volume]:
        """
        Create an empty volume.

        After success L{list_volumes} lists it. After failure nothing of it is left. A repetition with the same size and
        format returns the existing volume, unchanged.

        @param size: MiB.
        @raise NoSuchThing: no such pool.
        @raise AlreadyThere: there is a volume of this name with another size or format.
        @raise DriverError: for example, there is no space left.
        """

    def delete_volume(pool: str, name: str) -> Deferred[None]:
        """
        Delete a volume and its contents.

        After success L{list_volumes} doesn't list it. After failure it is as before. A repetition (no such volume) succeeds.

        @raise NoSuchThing: no such pool.
        """

    def attach_disk(uuid: str, disk: DomainDisk) -> Deferred[None]:
        """
        Attach a disk to a domain, at once if it runs, and in its definition.

        After success L{get_domain} reports the disk. After failure it doesn't, neither now nor after a start. A repetition
        changes nothing.

        @raise NoSuchThing: no such domain, or no such file.
        @raise AlreadyThere: another disk has this target.
        @raise WrongState: the domain's state doesn't allow the change; the sentence says which state does.
        """

    def detach_disk(uuid: str, target: str) -> Deferred[None]:
        """
        Detach a disk from a domain, at once if it runs, and in its definition; the volume stays.

        After success L{get_domain} doesn't report the disk, and the guest has released it. After failure (the guest doesn't
        release it in time) it is as before. A repetition (no such target) succeeds.

        @raise NoSuchThing: no such domain.
        @raise WrongState: the guest doesn't release it, or the domain's state doesn't allow the change.
        """


class IEvents(Interface):
    """The host reports state changes of its domains, whoever caused them."""

    def subscribe(callback: Callable[[str, DomainState | None], None]) -> None:
        """
        Call C{callback} with a domain's UUID and its new state, in the reactor's thread, at each change.

        The state is C{None} when the domain no longer exists. After success events come within a second. After failure none
        come. Each repetition adds a callback.
        """


class IReset(Interface):
    """Running domains can be reset, as with the reset button of a machine."""

    def reset(uuid: str) -> Deferred[None]:
        """
        Reset a running domain at once; its guest isn't asked.

        After success the domain boots again, and is running. After failure it is as before. A repetition resets again.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it isn't running.
        """


class ISave(Interface):
    """A running domain's memory can be saved to the host's disk, and the domain can be resumed from it later."""

    def save(uuid: str, progress: Progress) -> Deferred[None]:
        """
        Save the memory of a running or paused domain, and stop it.

        After success its state is C{saved}, and it uses no memory; stopping it discards the saved state, starting it is
        refused. After failure it runs, or is paused, as before. On a saved domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is stopped.
        """

    def restore(uuid: str, progress: Progress) -> Deferred[None]:
        """
        Resume a saved domain from its saved state.

        After success it is running, and its saved state has been removed. After failure it is saved as before. On a running
        domain it succeeds and changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is stopped or paused, and has no saved state.
        """


class ISnapshots(Interface):
    """
    The state of a domain and of its disks can be stored under a name, and reverted to.

    L{IConnection.undefine_domain} removes a domain's snapshots with it; but the space that they use in disks that stay is
    freed only if L{delete_snapshot} is called first.
    """

    def list_snapshots(uuid: str) -> Deferred[Sequence[Snapshot]]:
        """
        List a domain's snapshots, oldest first, whoever created them.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @raise NoSuchThing: no such domain.
        """

    def create_snapshot(uuid: str, name: str) -> Deferred[None]:
        """
        Store the current state of a domain: its disks and, if it runs, its memory.

        After success L{list_snapshots} lists it, and the domain continues as before. After failure nothing of it is left,
        and the domain continues as before. A repetition with the same name changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it is neither running nor stopped, or its current state couldn't be reverted to; the sentence
            says why.
        @raise Unsupported: one of its disks doesn't support snapshots; the sentence says which. Or it has no disk, and the
            hypervisor needs one.
        """

    def revert_snapshot(uuid: str, name: str) -> Deferred[None]:
        """
        Revert a domain's disks and memory to a snapshot; its definition stays as it is now.

        After success its disks are as in the snapshot, and it is running if the snapshot contains its memory, else stopped.
        After failure it is as before. A repetition reverts again. The shares and rates of L{IShares} that are in effect
        may be those of the snapshot, until they are set again.

        @raise NoSuchThing: no such domain or snapshot.
        @raise WrongState: it is neither running nor stopped; or its disks (or, if the snapshot contains memory, its amounts
            or interfaces) have changed, and the hypervisor doesn't allow that: the sentence says which.
        @raise Unsupported: this host can't revert to this kind of snapshot.
        """

    def delete_snapshot(uuid: str, name: str) -> Deferred[None]:
        """
        Delete a snapshot and free its space; the domain continues as it is.

        After success L{list_snapshots} doesn't list it. After failure it exists as before. A repetition (no such snapshot)
        succeeds.

        @raise NoSuchThing: no such domain.
        """


class IVolumes(Interface):
    """Volumes can be resized and cloned, and the host reports the free space of its pools. Requires L{IDisks}."""

    def list_pools() -> Deferred[Sequence[Pool]]:
        """
        List the storage pools.

        Success changes nothing. Failure changes nothing. A repetition reads again.
        """

    def resize_volume(pool: str, name: str, format: str, size: int) -> Deferred[Volume]:
        """
        Make a volume larger that no running domain uses.

        After success L{IDisks.list_volumes} reports the size. After failure it is as before. A repetition changes nothing.

        @param format: the format with which it was created; see L{IDisks}.
        @param size: MiB; not less than its current size.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: it is already larger, is in use, or doesn't have this format.
        """

    def clone_volume(pool: str, name: str, format: str, new: str, progress: Progress) -> Deferred[Volume]:
        """
        Copy a volume that no running domain uses, within its pool.

        After success L{IDisks.list_volumes} lists the copy, with the same size, format and contents. After failure nothing
        of it is left. A repetition returns the existing copy, unchanged.

        @param format: the format with which it was created; see L{IDisks}. The copy has the same format.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: it is in use, or doesn't have this format.
        """


class IDiskResize(Interface):
    """Disks of running domains can be made larger. Requires L{IVolumes}."""

    def resize_disk(uuid: str, disk: DomainDisk, size: int) -> Deferred[None]:
        """
        Make a running domain's disk larger, at once; the guest sees the new size.

        After success the volume has the size. After failure it is as before. A repetition changes nothing.

        @param size: MiB; not less than its current size.
        @raise NoSuchThing: no such domain, or it has no such disk.
        @raise WrongState: it isn't running.
        """


class IVolumeSnapshots(Interface):
    """
    The contents of a volume can be stored under a name, and reverted to. Requires L{IDisks}.

    L{IDisks.delete_volume} removes a volume's snapshots with it. They are independent of the L{ISnapshots} of a domain that
    has the volume as a disk, even if they have the same name.
    """

    def list_volume_snapshots(pool: str, name: str) -> Deferred[Sequence[Snapshot]]:
        """
        List a volume's snapshots, oldest first; none contains memory.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @raise NoSuchThing: no such pool or volume.
        """

    def create_volume_snapshot(pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """
        Store the current contents of a volume that no domain is using.

        After success L{list_volume_snapshots} lists it. After failure nothing of it is left. A repetition with the same
        C{snapshot} changes nothing.

        @param format: the format with which it was created; see L{IDisks}.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: a domain that has it as a disk isn't stopped, or it doesn't have this format.
        @raise Unsupported: volumes of this format don't support snapshots.
        """

    def revert_volume(pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """
        Revert a volume that no domain is using to a snapshot.

        After success its contents are those of the snapshot. After failure it is as before. A repetition reverts again.

        @param format: the format with which it was created; see L{IDisks}.
        @raise NoSuchThing: no such pool, volume or snapshot.
        @raise WrongState: a domain that has it as a disk isn't stopped, or it doesn't have this format.
        """

    def delete_volume_snapshot(pool: str, name: str, format: str, snapshot: str) -> Deferred[None]:
        """
        Delete a snapshot of a volume that no domain is using, and free its space.

        After success L{list_volume_snapshots} doesn't list it. After failure it exists as before. A repetition (no such
        snapshot) succeeds.

        @param format: the format with which it was created; see L{IDisks}.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: a domain that has it as a disk isn't stopped, or it doesn't have this format.
        """


class INetworks(Interface):
    """The host has networks, to which domains can have interfaces."""

    def list_networks() -> Deferred[Sequence[Network]]:
        """
        List the host's networks.

        Success changes nothing. Failure changes nothing. A repetition reads again.
        """

    def attach_interface(uuid: str, interface: DomainInterface) -> Deferred[None]:
        """
        Attach an interface to a domain, at once if it runs, and in its definition.

        After success L{IConnection.get_domain} reports it. After failure it doesn't, neither now nor after a start. A
        repetition changes nothing.

        @raise NoSuchThing: no such domain or network.
        @raise AlreadyThere: the domain has an interface with this address in another network.
        @raise WrongState: the domain's state doesn't allow the change; the sentence says which state does.
        """

    def detach_interface(uuid: str, mac: str) -> Deferred[None]:
        """
        Detach an interface from a domain, at once if it runs, and in its definition.

        After success L{IConnection.get_domain} doesn't report it. After failure (the guest doesn't release it) it is as
        before. A repetition (no such interface) succeeds.

        @raise NoSuchThing: no such domain.
        @raise WrongState: the guest doesn't release it, or the domain's state doesn't allow the change.
        """


class IStats(Interface):
    """The host reports what it and its domains are using."""

    def domain_stats(uuid: str) -> Deferred[DomainStats]:
        """
        Report what a domain has used since it started; if it isn't running, all fields are C{None}.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @raise NoSuchThing: no such domain.
        """

    def host_stats() -> Deferred[HostStats]:
        """
        Report the host's current load.

        Success changes nothing. Failure changes nothing. A repetition reads again.
        """


class IAdoption(Interface):
    """The host describes domains that somebody else created, so that the server can adopt them."""

    def get_spec(uuid: str) -> Deferred[DomainSpec]:
        """
        Return the specification that would define this domain.

        Success changes nothing. Failure changes nothing. A repetition reads again. A disk whose definition names no format
        is reported as raw, whatever its contents.

        @raise NoSuchThing: no such domain.
        @raise Unsupported: it has something that a L{DomainSpec} can't describe; the sentence says what.
        """

    def volume_of(path: str, format: str) -> Deferred[Volume]:
        """
        Find the volume at a path.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @param format: the disk's format, as L{get_spec} reported it; see L{IDisks}.
        @raise NoSuchThing: no pool has a volume at this path.
        @raise Unsupported: it doesn't have this format, or refers to other files.
        """


class IMigration(Interface):
    """Domains can be moved to another host with the same driver."""

    migrates_live: bool = Attribute("Whether running domains can be moved too.")

    def migrate(spec: DomainSpec, to: Any, live: bool, copy_storage: bool, progress: Progress) -> Deferred[None]:
        """
        Move a domain to another host.

        After success the domain is on the other host, in the same state, and not on this one; its old volumes stay here.
        After failure, or when it was cancelled, it is here as before, and not on the other host. A repetition, when the
        domain is already there, removes what is left of it here. It can be cancelled: it then ends when the move has
        really stopped, and succeeds if it could no longer be stopped.

        @param spec: its definition on the other host: its disks have the paths there.
        @param to: a connection of the same driver to the other host.
        @param live: move it while it runs. A stopped domain stays stopped.
        @param copy_storage: copy the contents of its disks to the volumes that C{spec} names on the other host, which are
            new and have the same size; else both hosts can access the disks.
        @raise NoSuchThing: no such domain here, or a file doesn't exist on the other host.
        @raise AlreadyThere: another domain on the other host has the name.
        @raise WrongState: it is paused; or it runs and C{live} isn't set, and the driver requires that.
        @raise Unsupported: it can't be moved between these two hosts.
        @raise Unreachable: one of the two hosts doesn't answer.
        """
