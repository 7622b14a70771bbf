"""
The objects that FluidVM keeps: frozen values.

Each field is listed once, here. Its form on the wire and its column follow from its declaration
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
"""A number that only grows."""
OptionalText = Annotated[str, Form(show=_unless_empty)]
"""Absent on the wire when it is empty."""
OptionalSize = Annotated[int, Form(show=_unless_empty)]
"""MiB; absent on the wire when it is 0."""
Snapshots = Annotated[tuple[Mapping[str, Any], ...], Form(wire=int, show=len)]
"""
Each with its C{id}, C{name}, C{created} (seconds since the epoch) and C{running} (it has the memory). The wire form has how
many there are.
"""
_HIDDEN = Form(hidden=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """
    What every object has.

    @ivar version: 1 when it is created, and one more with each of its changes that the change log has.
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
    Somebody who may log in. The hash of the password stays in the store.

    @ivar last_login: a login is no change: the version stays.
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
        """A user sees itself."""
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcePlan(_Base):
    """What one user may hold. A limit that isn't among C{limits} doesn't bound."""

    TYPE: ClassVar[str] = "resource_plan"
    RELATED: ClassVar[Fields] = {"users": int}

    limits: Mapping[str, Any]

    @property
    def owner(self) -> None:
        """Nobody's: everyone may see what is on offer."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeNode(_Base):
    """
    A hypervisor host.

    C{state} (C{connecting}, C{online}, C{offline}), C{reason} and what the host says of itself are as last seen.

    @ivar options: what its driver was told; not on the wire.
    """

    TYPE: ClassVar[str] = "compute_node"
    RELATED: ClassVar[Fields] = {"vcpus_used": int, "memory_used": int, "vms": int}
    COMPUTED: ClassVar[tuple[str, ...]] = ("vcpu_overcommit", "memory_overcommit", "reserved_memory", "weight")
    HIDDEN: ClassVar[tuple[str, ...]] = ("address", "reason")  # from plain users

    driver: str
    address: str
    mode: str
    # Both are true only while the server runs.
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
        """Nobody's: everyone may see it."""
        return None

    @property
    def vcpu_overcommit(self) -> float:
        """How many virtual CPUs are placed on each of the host's CPUs."""
        return float(self.options.get("vcpu_overcommit", 16.0))

    @property
    def memory_overcommit(self) -> float:
        """How many MiB of VMs are placed on each MiB that isn't reserved."""
        return float(self.options.get("memory_overcommit", 1.0))

    @property
    def reserved_memory(self) -> int:
        """MiB that are left to the host itself."""
        return int(self.options.get("reserved_memory", 0))

    @property
    def weight(self) -> float:
        """How much it is preferred: twice the weight, twice the load."""
        return float(self.options.get("weight", 1.0))

    @property
    def room(self) -> tuple[int, int]:
        """The virtual CPUs, and the MiB of memory, that VMs placed here may have together."""
        memory = max(0, self.memory - self.reserved_memory)
        return int(self.vcpus * self.vcpu_overcommit), int(memory * self.memory_overcommit)


@dataclass(frozen=True, slots=True, kw_only=True)
class VM(_Base):
    """
    A virtual machine. Memory in MiB; C{uuid} is its identity on the hypervisor.

    @ivar powered: it counts as running; kept while its node can't tell.
    @ivar domain: its name on the hypervisor, where that isn't made from its own.
    @ivar template: what its file system was made of, where it has one of its own.
    @ivar shares: the shares and rates of its owner's resource plan that the hypervisor holds it to.
    @ivar snapshots: each with its C{id}, C{name}, C{created} (seconds since the epoch) and C{running} (it has the memory);
        those that tasks made have C{had}, too: the VM's amounts and C{interfaces} when it was made.
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
        """What the hypervisor calls it: unique on a host that several owners or servers share; it keeps its first name."""
        return self.domain or f"{self.name}-{self.uuid[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk(_Base):
    """
    A volume on a compute node's storage pool. Size in MiB.

    @ivar volume: its name in the pool, durable before the hypervisor is asked.
    @ivar vm: the VM it is attached to, as C{target}; C{None} when detached.
    @ivar snapshots: its own, as a VM has its.
    @ivar image: what it was made of; it needs that no more.
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
    What disks are made of: a file on the server. Size in MiB, of the disks.

    @ivar public: everybody may use it.
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
"""Every type, in the order in which their rows may refer to each other."""
