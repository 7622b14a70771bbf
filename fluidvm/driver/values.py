"""What drivers and the server hand each other: errors and frozen values, memory and sizes in MiB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

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


class NotReady(WrongState):
    """It can't be asked yet, a guest that boots for example: asking again later may help."""


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
    @ivar target: the device's name: C{vda}, C{vdb}... A driver whose guests have others (C{xvda}) translates.
    """

    path: str
    format: str
    target: str


@dataclass(frozen=True)
class DomainInterface:
    """
    A network interface as a domain sees it.

    @ivar mac: its address, lower case, by which it is told from the domain's others.
    @ivar network: the network's name, as L{Network.name} tells it.
    @ivar model: C{virtio}, C{e1000}...; empty: the driver's usual one.
    """

    mac: str
    network: str
    model: str = ""


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
class Shares:
    """
    How much of its host a domain may take, against others and at most.

    @ivar cpu_shares: its CPUs' weight, 2 to 262144; a domain that was given none has 1024, the usual one (Linux's
        Documentation/admin-guide/cgroup-v1, C{cpu.shares}).
    @ivar disk_iops: operations a second of each disk; C{None}: as many as it can.
    @ivar disk_mbps: MiB a second of each disk; C{None}: as above.
    @ivar network_mbps: Mbit a second of each interface, either way; C{None}: as above.
    """

    cpu_shares: int = 1024
    disk_iops: int | None = None
    disk_mbps: int | None = None
    network_mbps: int | None = None


@dataclass(frozen=True)
class DomainSpec:
    """
    A domain to define. Memory in MiB; C{max_vcpus} and C{max_memory} bound what it can have while it runs.

    @ivar disks: empty unless the connection provides L{IDisks}.
    @ivar autostart: whether the host starts it when it boots itself, with or without the server.
    @ivar shares: as usual unless the connection provides L{IShares}.
    @ivar template: what its file system is made of, where the connection provides L{ITemplates}; empty: the driver's usual.
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
    interfaces: tuple[DomainInterface, ...] = ()


@dataclass(frozen=True)
class Volume:
    """A volume in a storage pool. C{size} is what a guest sees, in MiB, rounded up."""

    pool: str
    name: str
    path: str
    format: str
    size: int


@dataclass(frozen=True)
class Pool:
    """A storage pool. C{capacity} and C{free} in MiB."""

    name: str
    capacity: int
    free: int


@dataclass(frozen=True)
class Network:
    """A network that domains' interfaces can be in. C{bridge}: the host's bridge, where it has one."""

    name: str
    active: bool
    bridge: str = ""


@dataclass(frozen=True)
class Snapshot:
    """
    A domain's snapshot.

    @ivar name: unique among the domain's.
    @ivar created: seconds since the epoch.
    @ivar running: it has the memory of a running domain, which goes on there when it is reverted to.
    """

    name: str
    created: float
    running: bool


@dataclass(frozen=True)
class DomainStats:
    """
    What a running domain has used since it started; nothing where the host can't tell.

    @ivar cpu_time: seconds of CPU.
    @ivar memory: MiB that it takes of the host's.
    @ivar disk_read: bytes; C{disk_written} as well.
    @ivar network_received: bytes; C{network_sent} as well.
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
    What a host is doing.

    @ivar cpu: of all its CPUs together, percent of the time since it was last asked (or since its start).
    @ivar memory_used: MiB.
    """

    cpu: float
    memory_used: int


@dataclass(frozen=True)
class GuestOutput:
    """
    How a command in a guest ended.

    @ivar code: its exit code; when a signal ended it, the signal's number, negative.
    """

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class GuestNetwork:
    """
    Who a guest is told that it is.

    @ivar addresses: with prefixes' lengths where they were given so, in the order in which they were.
    @ivar hostname: empty: it is told none.
    """

    addresses: tuple[str, ...] = ()
    hostname: str = ""
    nameservers: tuple[str, ...] = ()
    search_domains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """
    What bounds a domain beside its memory and CPUs; C{None}: unknown, or as it is.

    @ivar swap: MiB.
    @ivar disk_space: MiB of its own file system.
    @ivar inodes: how many files that may have.
    @ivar cpu_limit: per cent of one CPU that it may take, all its CPUs together; 0: as many as it has.
    """

    swap: int | None = None
    disk_space: int | None = None
    inodes: int | None = None
    cpu_limit: int | None = None
