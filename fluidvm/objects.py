"""
The objects that FluidVM keeps: frozen values and their wire form.

Field by field as the wire contract lists them; what can be derived from other objects is passed to L{wire} by the inventory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from fluidvm.xmlvalue import moment, total

Fields = Mapping[str, type]
"""The keys of an object's wire form, in order, and the type of each."""

ROLES = ("admin", "user", "auditor")


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in. The password's hash stays in the store."""

    TYPE: ClassVar[str] = "user"
    FIELDS: ClassVar[Fields] = {
        "id": int, "name": str, "role": str, "enabled": bool, "resource_plan": int, "full_name": str, "email": str,
        "second_factor": bool, "created": datetime, "last_login": datetime,
    }  # fmt: skip

    id: int
    name: str
    role: str
    enabled: bool
    full_name: str
    email: str
    created: float
    last_login: float | None = None
    resource_plan: int | None = None
    second_factor: bool = False

    @property
    def owner(self) -> int:
        """A user sees itself."""
        return self.id

    def wire(self, related: Mapping[str, Any]) -> dict[str, Any]:
        """As C{get_user} gives it."""
        return {
            "id": self.id, "name": self.name, "role": self.role, "enabled": self.enabled,
            "resource_plan": self.resource_plan, "full_name": self.full_name, "email": self.email,
            "second_factor": self.second_factor, "created": moment(self.created),
            "last_login": None if self.last_login is None else moment(self.last_login),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """What one user may hold. A limit that isn't among C{limits} doesn't bound."""

    TYPE: ClassVar[str] = "resource_plan"
    FIELDS: ClassVar[Fields] = {"id": int, "name": str, "limits": dict, "users": int, "created": datetime}

    id: int
    name: str
    limits: Mapping[str, Any]
    created: float

    @property
    def owner(self) -> None:
        """Nobody's: everyone may see what is on offer."""
        return None

    def wire(self, related: Mapping[str, Any]) -> dict[str, Any]:
        """As C{get_resource_plan} gives it."""
        return {
            "id": self.id, "name": self.name, "limits": dict(self.limits), "users": related["users"],
            "created": moment(self.created),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ComputeNode:
    """
    A hypervisor host.

    C{state} (C{connecting}, C{online}, C{offline}), C{reason} and what the host says of itself are as last seen.

    @ivar options: what its driver was told; not on the wire.
    """

    TYPE: ClassVar[str] = "compute_node"
    FIELDS: ClassVar[Fields] = {
        "id": int, "name": str, "driver": str, "address": str, "mode": str, "state": str, "reason": str, "labels": list,
        "vcpus": int, "memory": int, "vcpus_used": int, "memory_used": int, "vms": int, "vcpu_overcommit": float,
        "memory_overcommit": float, "reserved_memory": int, "weight": float, "driver_version": str,
        "hypervisor_version": str, "created": datetime,
    }  # fmt: skip
    HIDDEN: ClassVar[tuple[str, ...]] = ("address", "reason")  # from plain users

    id: int
    name: str
    driver: str
    address: str
    mode: str
    state: str
    reason: str
    labels: tuple[str, ...]
    options: Mapping[str, Any]
    vcpus: int
    memory: int
    driver_version: str
    hypervisor_version: str
    created: float

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

    def wire(self, related: Mapping[str, Any]) -> dict[str, Any]:
        """As C{get_compute_node} gives it to administrators and auditors."""
        return {
            "id": self.id, "name": self.name, "driver": self.driver, "address": self.address, "mode": self.mode,
            "state": self.state, "reason": self.reason or None, "labels": list(self.labels), "vcpus": self.vcpus,
            "memory": self.memory, "vcpus_used": total(related["vcpus_used"]), "memory_used": total(related["memory_used"]),
            "vms": related["vms"], "vcpu_overcommit": self.vcpu_overcommit, "memory_overcommit": self.memory_overcommit,
            "reserved_memory": self.reserved_memory, "weight": self.weight, "driver_version": self.driver_version or None,
            "hypervisor_version": self.hypervisor_version or None, "created": moment(self.created),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class VM:
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
    FIELDS: ClassVar[Fields] = {
        "id": int, "name": str, "owner": int, "state": str, "uuid": str, "compute_node": int, "driver": str, "vcpus": int,
        "max_vcpus": int, "memory": int, "max_memory": int, "disks": list, "interfaces": list, "description": str,
        "tags": list, "autostart": bool, "boot": dict, "template": str, "shares": dict, "snapshots": int,
        "created": datetime,
    }  # fmt: skip

    id: int
    name: str
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
    created: float
    powered: bool = False
    domain: str = ""
    shares: Mapping[str, int] = field(default_factory=dict)
    template: str = ""
    snapshots: tuple[Mapping[str, Any], ...] = ()

    @property
    def domain_name(self) -> str:
        """What the hypervisor calls it: unique on a host that several owners or servers share; it keeps its first name."""
        return self.domain or f"{self.name}-{self.uuid[:8]}"

    def wire(self, related: Mapping[str, Any]) -> dict[str, Any]:
        """As C{get_vm} gives it."""
        return {
            "id": self.id, "name": self.name, "owner": self.owner, "state": self.state, "uuid": self.uuid,
            "compute_node": self.compute_node, "driver": self.driver, "vcpus": self.vcpus, "max_vcpus": self.max_vcpus,
            "memory": self.memory, "max_memory": self.max_memory, "disks": related["disks"],
            "interfaces": list(self.interfaces), "description": self.description, "tags": list(self.tags),
            "autostart": self.autostart, "boot": dict(self.boot), "template": self.template or None,
            "shares": dict(self.shares) or None,
            "snapshots": len(self.snapshots), "created": moment(self.created),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Disk:
    """
    A volume on a compute node's storage pool. Size in MiB.

    @ivar volume: its name in the pool, durable before the hypervisor is asked.
    @ivar vm: the VM it is attached to, as C{target}; C{None} when detached.
    @ivar snapshots: its own, as a VM has its.
    @ivar image: what it was made of; it needs that no more.
    """

    TYPE: ClassVar[str] = "disk"
    FIELDS: ClassVar[Fields] = {
        "id": int, "name": str, "owner": int, "state": str, "size": int, "format": str, "compute_node": int, "pool": str,
        "path": str, "vm": int, "target": str, "backing_image": int, "snapshots": int, "created": datetime,
    }  # fmt: skip

    id: int
    name: str
    owner: int
    state: str
    size: int
    format: str
    compute_node: int
    pool: str
    volume: str
    path: str
    vm: int | None
    target: str | None
    created: float
    snapshots: tuple[Mapping[str, Any], ...] = ()
    image: int | None = None

    def wire(self, related: Mapping[str, Any]) -> dict[str, Any]:
        """As C{get_disk} gives it."""
        return {
            "id": self.id, "name": self.name, "owner": self.owner, "state": self.state, "size": self.size,
            "format": self.format, "compute_node": self.compute_node, "pool": self.pool, "path": self.path or None,
            "vm": self.vm, "target": self.target, "backing_image": self.image,
            "snapshots": len(self.snapshots), "created": moment(self.created),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """
    What disks are made of: a file on the server. Size in MiB, of the disks.

    @ivar public: everybody may use it.
    @ivar space: MiB that its file takes.
    """

    TYPE: ClassVar[str] = "image"
    FIELDS: ClassVar[Fields] = {
        "id": int, "name": str, "owner": int, "public": bool, "size": int, "format": str, "sha256": str, "state": str,
        "created": datetime,
    }  # fmt: skip

    id: int
    name: str
    owner: int
    public: bool
    size: int
    format: str
    sha256: str
    state: str
    created: float
    space: int = 0

    def wire(self, related: Mapping[str, Any]) -> dict[str, Any]:
        """As C{get_image} gives it."""
        return {
            "id": self.id, "name": self.name, "owner": self.owner, "public": self.public, "size": self.size or None,
            "format": self.format, "sha256": self.sha256 or None, "state": self.state, "created": moment(self.created),
        }  # fmt: skip


POWERED = frozenset({"running", "paused", "starting", "stopping", "migrating"})
"""States in which a VM counts as running."""

Object = User | ResourcePlan | ComputeNode | VM | Disk | Image
OBJECT_TYPES: dict[str, type[Object]] = {cls.TYPE: cls for cls in (ResourcePlan, User, ComputeNode, VM, Disk, Image)}
