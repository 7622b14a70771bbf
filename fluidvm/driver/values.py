"""What drivers and the server exchange: errors and frozen values. Memory and sizes are in MiB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

Progress = Callable[[int], None]
"""Called with the percentage done, 0 to 100, which never decreases, in the reactor's thread."""


class DriverError(Exception):
    """An operation failed. Its text is one sentence that names the object. Raise one of the subclasses where it fits."""


class NoSuchThing(DriverError):
    """The domain, volume, pool or file doesn't exist."""


class AlreadyThere(DriverError):
    """Another domain or volume already has this name or identity."""


class WrongState(DriverError):
    """The object's state doesn't allow the operation; the sentence says which state does."""


class NotReady(WrongState):
    """It can't be done yet, for example because a guest is booting: trying again later may help."""


class Unsupported(DriverError):
    """This host's hypervisor doesn't support it, though the driver does on other hosts."""


class Unreachable(DriverError):
    """The host doesn't answer; the operation may or may not have taken effect."""


class DomainState(str, Enum):
    """A domain's state as its hypervisor reports it; the values are those of the API."""

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
    A host's hardware and hypervisor.

    @ivar vcpus: CPUs that it can run at once (threads).
    @ivar memory: MiB of RAM.
    @ivar hypervisor_version: e.g. C{QEMU 7.2.0}.
    @ivar driver_version: of the software through which the driver reaches the host, e.g. C{libvirt 9.0.0}.
    """

    vcpus: int
    memory: int
    hypervisor_version: str
    driver_version: str


@dataclass(frozen=True)
class DomainDisk:
    """
    A volume as a domain sees it.

    @ivar path: on the host, as in L{Volume.path}.
    @ivar target: the device's name: C{vda}, C{vdb}... A driver whose guests use other names (C{xvda}) translates them.
    """

    path: str
    format: str
    target: str


@dataclass(frozen=True)
class DomainInterface:
    """
    A network interface as a domain sees it.

    @ivar mac: its MAC address, in lower case, which identifies it among the domain's interfaces.
    @ivar network: the network's name, as in L{Network.name}.
    @ivar model: C{virtio}, C{e1000}...; empty: the driver's default.
    """

    mac: str
    network: str
    model: str = ""


@dataclass(frozen=True)
class Boot:
    """
    What a domain boots: a kernel on the host (direct kernel boot), or its devices in order.

    @ivar kernel: absolute path on the host; empty: none.
    @ivar initrd: absolute path on the host; empty: none.
    @ivar cmdline: the kernel's command line.
    @ivar order: any of C{disk}, C{network} and C{cdrom}, the first to try first; used when there is no kernel.
    """

    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    order: tuple[str, ...] = ("disk",)


@dataclass(frozen=True)
class Shares:
    """
    How much of its host a domain can use: its share relative to other domains, and its rate limits.

    @ivar cpu_shares: the weight of its CPUs, 2 to 262144; the default is 1024, as in Linux
        (Documentation/admin-guide/cgroup-v1, C{cpu.shares}).
    @ivar disk_iops: operations per second of each disk; C{None}: unlimited.
    @ivar disk_mbps: MiB per second of each disk; C{None}: unlimited.
    @ivar network_mbps: Mbit per second of each interface, in each direction; C{None}: unlimited.
    """

    cpu_shares: int = 1024
    disk_iops: int | None = None
    disk_mbps: int | None = None
    network_mbps: int | None = None


@dataclass(frozen=True)
class DomainSpec:
    """
    A domain to define. Memory is in MiB; C{max_vcpus} and C{max_memory} limit what it can be given while it runs.

    @ivar disks: empty unless the connection provides L{IDisks}.
    @ivar autostart: whether the host starts it when the host boots, with or without the server.
    @ivar shares: the defaults unless the connection provides L{IShares}.
    @ivar template: from which its file system is created, if the connection provides L{ITemplates}; empty: the default.
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
    interfaces: tuple[DomainInterface, ...] = ()
    shares: Shares = field(default_factory=Shares)
    template: str = ""


@dataclass(frozen=True)
class DomainInfo:
    """A domain as its host describes it now. C{vcpus} and C{memory} (MiB) are what it has been given, not what it uses."""

    uuid: str
    name: str
    state: DomainState
    vcpus: int
    max_vcpus: int
    memory: int
    max_memory: int
    disks: tuple[DomainDisk, ...] = ()
    autostart: bool = False
    interfaces: tuple[DomainInterface, ...] = ()


@dataclass(frozen=True)
class Volume:
    """A volume in a storage pool. C{size} is the size that a guest sees, in MiB, rounded up."""

    pool: str
    name: str
    path: str
    format: str
    size: int


@dataclass(frozen=True)
class Pool:
    """A storage pool. C{capacity} and C{free} are in MiB."""

    name: str
    capacity: int
    free: int


@dataclass(frozen=True)
class Network:
    """A network for the interfaces of domains. C{bridge}: its bridge on the host, if it has one."""

    name: str
    active: bool
    bridge: str = ""


@dataclass(frozen=True)
class Snapshot:
    """
    A snapshot of a domain or of a volume.

    @ivar name: unique among the snapshots of the domain or volume.
    @ivar created: seconds since the epoch.
    @ivar running: whether it contains the memory of a running domain, which continues from there after a revert.
    """

    name: str
    created: float
    running: bool


@dataclass(frozen=True)
class DomainStats:
    """
    What a running domain has used since it started. C{None}: the host can't report it.

    @ivar cpu_time: seconds of CPU.
    @ivar memory: MiB of the host's memory that it uses.
    @ivar disk_read: bytes, like C{disk_written}.
    @ivar network_received: bytes, like C{network_sent}.
    """

    cpu_time: float | None = None
    memory: int | None = None
    disk_read: int | None = None
    disk_written: int | None = None
    network_received: int | None = None
    network_sent: int | None = None


@dataclass(frozen=True)
class HostStats:
    """
    A host's current load.

    @ivar cpu: the load of all its CPUs together, in percent, since the last query (or since the host started).
    @ivar memory_used: MiB.
    """

    cpu: float
    memory_used: int


@dataclass(frozen=True)
class GuestOutput:
    """
    The result of a command in a guest.

    @ivar code: its exit code; if a signal ended it, the negated number of the signal.
    """

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class GuestNetwork:
    """
    The network settings that a guest gets from its host.

    @ivar addresses: with a prefix length where one was given, in the order in which they were added.
    @ivar hostname: empty: none is set.
    """

    addresses: tuple[str, ...] = ()
    hostname: str = ""
    nameservers: tuple[str, ...] = ()
    search_domains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """
    A domain's limits beside memory and CPUs. C{None}: unknown or, in a request, unchanged.

    @ivar swap: MiB.
    @ivar disk_space: size of its own file system, in MiB.
    @ivar inodes: maximum number of files in that file system.
    @ivar cpu_limit: percent of one CPU that all its CPUs together can use; 0: unlimited.
    """

    swap: int | None = None
    disk_space: int | None = None
    inodes: int | None = None
    cpu_limit: int | None = None
