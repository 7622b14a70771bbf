"""
The objects that FluidVM stores, as immutable values.

Each field is listed only here. Its form on the wire and its column follow from its declaration
(L{fluidvm.model.object_fields}); a new field also needs a migration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar

from fluidvm.model.object_fields import Fields, Form
from fluidvm.model.xmlvalue import moment, total

ROLES = ("admin", "user", "auditor")


def _unless_empty(value: Any) -> Any:
    return value or None


Moment = Annotated[float, Form(wire=datetime, show=moment)]
"""Seconds since the epoch."""
Counter = Annotated[int, Form(show=total, wide=True)]
"""A number that only increases."""
OptionalText = Annotated[str, Form(show=_unless_empty)]
"""Text that is absent on the wire when it is empty."""
OptionalSize = Annotated[int, Form(show=_unless_empty)]
"""A size in MiB that is absent on the wire when it is 0."""
Snapshots = Annotated[tuple[Mapping[str, Any], ...], Form(wire=int, show=len)]
"""
Snapshots, each with its C{id}, C{name}, C{created} (seconds since the epoch) and C{running} (whether it contains the
memory). The wire form has only their number.
"""
_HIDDEN = Form(hidden=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """
    The fields of every object.

    @ivar version: 1 when it is created; increased by one with each of its changes in the change log.
    """

    RELATED: ClassVar[Fields] = {}
    COMPUTED: ClassVar[tuple[str, ...]] = ()

    id: int
    name: str
    created: Moment
    version: Counter = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class User(_Base):
    """
    A person or program that can log in. The hash of the password is only in the store.

    @ivar last_login: a login is not recorded as a change: the version stays the same.
    """

    TYPE: ClassVar[str] = "user"

    role: str
    enabled: bool
    resource_plan: int | None = None
    full_name: str
    email: str
    second_factor: bool = False
    last_login: Moment | None = None

    @property
    def owner(self) -> int:
        """Users own themselves, so that they see themselves."""
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcePlan(_Base):
    """What one user is allowed to use. What isn't in C{limits} is unlimited."""

    TYPE: ClassVar[str] = "resource_plan"
    RELATED: ClassVar[Fields] = {"users": int}

    limits: Mapping[str, Any]

    @property
    def owner(self) -> None:
        """Resource plans have no owner: everyone may see them."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeNode(_Base):
    """
    A hypervisor host.

    C{state} (C{connecting}, C{online}, C{offline}), C{reason} and what the host reports about itself are as last seen.

    @ivar options: the options given to its driver; not on the wire.
    """

    TYPE: ClassVar[str] = "compute_node"
    RELATED: ClassVar[Fields] = {"vcpus_used": int, "memory_used": int, "vms": int}
    COMPUTED: ClassVar[tuple[str, ...]] = ("vcpu_overcommit", "memory_overcommit", "reserved_memory", "weight")
    HIDDEN: ClassVar[tuple[str, ...]] = ("address", "reason")  # from plain users

    driver: str
    address: str
    mode: str
    # Both are valid only while the server is running, so they are not stored.
    state: Annotated[str, Form(stored=False)] = "connecting"
    reason: Annotated[str, Form(stored=False, show=_unless_empty)] = ""
    labels: tuple[str, ...]
    options: Annotated[Mapping[str, Any], _HIDDEN]
    vcpus: int
    memory: int
    driver_version: OptionalText
    hypervisor_version: OptionalText

    @property
    def owner(self) -> None:
        """Compute nodes have no owner: everyone may see them."""
        return None

    @property
    def vcpu_overcommit(self) -> float:
        """Number of virtual CPUs that are placed on each of the host's CPUs."""
        return float(self.options.get("vcpu_overcommit", 16.0))

    @property
    def memory_overcommit(self) -> float:
        """MiB of VMs' memory that are placed on each MiB of the host that isn't reserved."""
        return float(self.options.get("memory_overcommit", 1.0))

    @property
    def reserved_memory(self) -> int:
        """MiB of memory that are reserved for the host itself."""
        return int(self.options.get("reserved_memory", 0))

    @property
    def weight(self) -> float:
        """How much placement prefers this node: twice the weight means twice the load."""
        return float(self.options.get("weight", 1.0))

    @property
    def room(self) -> tuple[int, int]:
        """The node's capacity: the virtual CPUs, and the MiB of memory, of all VMs placed here together."""
        memory = max(0, self.memory - self.reserved_memory)
        return int(self.vcpus * self.vcpu_overcommit), int(memory * self.memory_overcommit)


@dataclass(frozen=True, slots=True, kw_only=True)
class VM(_Base):
    """
    A virtual machine or a container. Memory is in MiB; C{uuid} identifies it on the hypervisor.

    @ivar powered: whether it counts as running; unchanged while its node can't report its state.
    @ivar domain: its name on the hypervisor, if that isn't derived from the VM's name.
    @ivar template: the template from which its file system was created, if it has a file system instead of disks.
    @ivar shares: the shares and rates of its owner's resource plan that the hypervisor enforces.
    @ivar snapshots: each with its C{id}, C{name}, C{created} (seconds since the epoch) and C{running} (whether it contains
        the memory). Those that tasks created also have C{had}: the VM's amounts and C{interfaces} at that time.
    """

    TYPE: ClassVar[str] = "vm"
    RELATED: ClassVar[Fields] = {"disks": list}

    owner: int
    state: str
    uuid: str
    compute_node: int
    driver: str
    vcpus: int
    max_vcpus: int
    memory: int
    max_memory: int
    interfaces: tuple[Mapping[str, Any], ...]
    description: str
    tags: tuple[str, ...]
    autostart: bool
    boot: Mapping[str, Any]
    template: OptionalText = ""
    shares: Annotated[Mapping[str, int], Form(show=lambda shares: dict(shares) or None)] = field(default_factory=dict)
    snapshots: Snapshots = ()
    powered: Annotated[bool, _HIDDEN] = False
    domain: Annotated[str, _HIDDEN] = ""

    @property
    def domain_name(self) -> str:
        """Its name on the hypervisor: unique on a host that several owners or servers share, and not changed by renaming."""
        return self.domain or f"{self.name}-{self.uuid[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk(_Base):
    """
    A volume in a storage pool of a compute node. Size in MiB.

    @ivar volume: its name in the pool, stored before the hypervisor is asked to create it.
    @ivar vm: the VM to which it is attached, as device C{target}; C{None} if it is detached.
    @ivar snapshots: the disk's own snapshots, in the same form as a VM's.
    @ivar image: the image from which it was created. The disk doesn't depend on the image any more.
    """

    TYPE: ClassVar[str] = "disk"

    owner: int
    state: str
    size: int
    format: str
    compute_node: int
    pool: str
    path: OptionalText
    vm: int | None
    target: str | None
    image: Annotated[int | None, Form(name="backing_image")] = None
    snapshots: Snapshots = ()
    volume: Annotated[str, _HIDDEN]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(_Base):
    """
    A file on the server from which disks are created. C{size} is the size of these disks in MiB.

    @ivar public: whether everybody may use it.
    @ivar space: MiB that its file takes.
    """

    TYPE: ClassVar[str] = "image"

    owner: int
    public: bool
    size: OptionalSize
    format: str
    sha256: OptionalText
    state: str
    space: Annotated[int, _HIDDEN] = 0


POWERED = frozenset({"running", "paused", "starting", "stopping", "migrating"})
"""States in which a VM counts as running."""


def vm_state(state: str) -> dict[str, Any]:
    """
    Give the fields that change when a VM gets a state: each update of a VM's state takes them from here.

    The state says whether the VM counts as running. While it is C{unknown}, C{powered} stays as it was.
    """
    return {"state": state} if state == "unknown" else {"state": state, "powered": state in POWERED}


Object = User | ResourcePlan | ComputeNode | VM | Disk | Image
OBJECT_TYPES: dict[str, type[Object]] = {cls.TYPE: cls for cls in (ResourcePlan, User, ComputeNode, VM, Disk, Image)}
"""Every type, ordered so that rows refer only to rows of earlier types."""
