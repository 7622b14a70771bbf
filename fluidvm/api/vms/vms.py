"""Creating, reading and deleting VMs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any
from uuid import uuid4

from twisted.internet.defer import CancelledError

from fluidvm.access.call import Call
from fluidvm.api.listing import list_objects, show
from fluidvm.api.placement import free_name, may_force, may_own, owner_of, place
from fluidvm.api.storage.disks import DEFAULT_POOL, check_attachable, delete_volume, make_volume, new_disk, with_image
from fluidvm.api.vms.networks import MOST, InterfaceKind, check_networks, domain_interface, new_interface
from fluidvm.api.vms.shares import shares_of
from fluidvm.auth.permissions import administers
from fluidvm.driver import (
    Boot,
    DomainDisk,
    DomainSpec,
    DomainState,
    IConnection,
    IDisks,
    IImages,
    INetworks,
    Interface,
    IShares,
    ISnapshots,
    ITemplates,
    IVolumes,
    NoSuchThing,
    Shares,
)
from fluidvm.engine.job import Job
from fluidvm.engine.placement import Wanted
from fluidvm.inventory.ledger import can_get
from fluidvm.inventory.quota import check_vm, limits_of, one_vm
from fluidvm.model.declare import AfterCrash, query, task
from fluidvm.model.faults import Conflict, Forbidden, InvalidParams
from fluidvm.model.kinds import (
    NAME_PATTERN,
    NAME_RULE,
    Array,
    Bool,
    Choice,
    Id,
    Int,
    Struct,
    Text,
    VmId,
    filter_of,
    named,
)
from fluidvm.model.object_fields import wire_fields
from fluidvm.model.objects import VM, ComputeNode, Disk, vm_state
from fluidvm.model.xmlvalue import Members, Rendered
from fluidvm.store.objects import Change, Create, Delete, Update

MEMORY_HIGH = 16 * 1024 * 1024
HostPath = Text(
    "path of a file on the compute node",
    longest=1024,
    pattern=r"(/(?!\.\.?(/|$))[A-Za-z0-9._+-]+)+",
    rule="an absolute path of letters, digits and ._+-",
)
NewDisk = Struct(
    "a new disk (size or image) or an existing one (disk)",
    fields={
        "image": Id("the image to create the new disk from", type="image"),
        "size": Int("size of the new disk", unit="MiB", low=1),
        "disk": Id("a detached disk; the VM is created on its compute node", type="disk"),
        "pool": named("the storage pool; default: default"),
        "format": Text("format of the new disk", longest=16, pattern=r"[a-z0-9]+", rule="lower-case letters and digits"),
    },
    either=(("size", "disk"), ("disk", "pool"), ("disk", "format"), ("disk", "image")),
)
Template = Text(
    "the OS template to create its file system from, see list_templates; default: the compute node's usual one",
    longest=127,
    pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    rule="letters, digits, dots, dashes and underscores",
)
FORCE = Bool("skip the check that the compute node has room (administrators only)")
BootKind = Struct(
    "what to boot: a kernel on the compute node, or devices in order",
    fields={
        "kernel": HostPath,
        "initrd": HostPath,
        "cmdline": Text("the kernel's command line", longest=2048, pattern=r"[\x20-\x7e]*", rule="printable ASCII"),
        "order": Array(
            "boot devices in order of preference",
            of=Choice("a device", choices=("disk", "network", "cdrom")),
            longest=3,
            unique=True,
        ),
    },
    either=(("kernel", "order"), ("initrd", "order"), ("cmdline", "order")),
)
VmSpec = Annotated[
    dict[str, Any],
    Struct(
        "the VM",
        fields={
            "name": named("the VM's name, unique among its owner's VMs"),
            "vcpus": Int("virtual CPUs; default: from the resource plan, else 1", low=1, high=1024),
            "max_vcpus": Int(
                "maximum of vcpus while it is running; resource plans count this; default: vcpus", low=1, high=1024
            ),
            "memory": Int("memory; default: from the resource plan, else 512", unit="MiB", low=16, high=MEMORY_HIGH),
            "max_memory": Int(
                "maximum of memory while it is running; resource plans count this; default: memory",
                unit="MiB",
                low=16,
                high=MEMORY_HIGH,
            ),
            "disks": Array(
                "its disks: vda, vdb...; default: one of size default_disk of the resource plan, else none",
                of=NewDisk,
                longest=24,
            ),
            "interfaces": Array("its network interfaces; default: none", of=InterfaceKind, longest=MOST),
            "compute_node": Id(
                "the compute node; default: that of its disks, else the server chooses one", type="compute_node"
            ),
            "driver": Text("choose a node of this driver", longest=63, pattern=NAME_PATTERN, rule=NAME_RULE),
            "labels": Array("choose a node that has all these labels", of=named("a label")),
            "owner": Id("the owner; default: the caller", type="user"),
            "description": Text("free text", longest=4096),
            "tags": Array("tags to find the VM by", of=named("a tag"), unique=True),
            "autostart": Bool("whether the VM is started when its host starts"),
            "boot": BootKind,
            "template": Template,
            "force": FORCE,
        },
        required=("name",),
        either=(("compute_node", "driver"), ("compute_node", "labels")),
    ),
]
DeleteOptions = Annotated[
    dict[str, Any],
    Struct("what to keep", fields={"keep_disks": Bool("detach the disks instead of deleting them")}),
]
VmFilter = Annotated[dict[str, Any], filter_of(wire_fields(VM))]


def _check_spec(call: Call, spec: dict[str, Any]) -> None:
    may_own(call, spec)
    may_force(call.user, spec, "spec")
    free_name(call.inventory, VM, spec["name"], spec.get("owner", call.user.id))
    if "vcpus" in spec and spec["vcpus"] > spec.get("max_vcpus", 1024):
        raise InvalidParams("spec.max_vcpus: is less than vcpus.")
    if "memory" in spec and spec["memory"] > spec.get("max_memory", MEMORY_HIGH):
        raise InvalidParams("spec.max_memory: is less than memory.")
    for number, disk in enumerate(spec.get("disks", ())):
        if not disk.keys() & {"size", "disk", "image"}:
            raise InvalidParams(f"spec.disks[{number}].size: is missing.")
    check_kernel("spec.boot", spec.get("boot", {}))


def check_kernel(path: str, boot: dict[str, Any]) -> None:
    """@raise InvalidParams: an initrd or a command line is given without a kernel."""
    if ("initrd" in boot or "cmdline" in boot) and "kernel" not in boot:
        raise InvalidParams(f"{path}.kernel: is missing.")


def check_boot(job: Job, node: ComputeNode, boot: dict[str, Any]) -> None:
    """
    Check that the task's user may boot these files.

    The guest can read its kernel: plain users may only name files in directories that an administrator has allowed.

    @raise Forbidden: a file is in another directory.
    """
    if administers(job.user()):
        return
    allowed = node.options.get("boot_dirs", ())
    for key in ("kernel", "initrd"):
        path = boot.get(key)
        if path is not None and not any(path.startswith(directory + "/") for directory in allowed):
            raise Forbidden(f"spec.boot.{key}: {path} is not in any of the boot_dirs of compute node {node.name}.")


@task(
    "vm",
    creates=True,
    precheck=_check_spec,
    optional_abilities=(
        (IDisks, "with disks"),
        (IImages, "with disks from images"),
        (INetworks, "with interfaces"),
        (IShares, "with CPU shares and rate limits"),
        (ITemplates, "from a template"),
    ),
)
async def create_vm(job: Job, spec: VmSpec) -> None:
    """
    Create a VM with its disks and interfaces. The new VM is stopped.

    It is created on the named compute node, or on the node of its disks, otherwise on the node that fits best. The node must
    have room for max_memory and max_vcpus, unless an administrator skips this check (force).

    The VM and its disks are stored before the hypervisor is asked. If the task fails, what was created is removed.
    """
    vm = job.inventory.find(VM, job.target)
    if vm is None:
        vm = await _plan(job, spec)
    try:
        connection = await job.connection(vm.compute_node)
        disks = job.inventory.disks_of(vm.id)
        attached = []
        for number, disk in enumerate(disks):
            job.status(f"creating disk {disk.name}")
            if disk.state == "creating":
                disk = await make_volume(job, disk, lambda percentage: None)
            attached.append(DomainDisk(disk.path, disk.format, str(disk.target)))
            job.progress(90 * (number + 1) // len(disks))
        job.status(f"defining {vm.name}")
        await connection.define_domain(domain_spec(vm, attached))
    except CancelledError:
        raise  # the server stops: its next start resumes here
    except Exception:
        job.take_facts()
        await remove_made(job, vm, {disk["disk"] for disk in spec.get("disks", ()) if "disk" in disk})
        raise
    job.put(Update("vm", vm.id, vm_state("stopped")))


async def _plan(job: Job, spec: dict[str, Any]) -> VM:
    """Decide and store everything: the compute node, the UUID, the names of the volumes."""
    owner = owner_of(job, spec)
    free_name(job.inventory, VM, spec["name"], owner)
    limits = limits_of(job.inventory, owner)
    vcpus = spec.get("vcpus", min(limits.get("default_vcpus", 1), spec.get("max_vcpus", 1024)))
    memory = spec.get("memory", min(limits.get("default_memory", 512), spec.get("max_memory", MEMORY_HIGH)))
    default_disk = limits.get("default_disk")
    most_vcpus, most_memory = spec.get("max_vcpus", vcpus), spec.get("max_memory", memory)
    given_disks = spec.get("disks", [] if default_disk is None else [{"size": default_disk}])
    wanted = [with_image(job, disk) for disk in given_disks]
    pool, space = largest_pool([disk for disk in wanted if "size" in disk])
    shape = Wanted(most_vcpus, most_memory, pool=pool, space=space)
    plugs = spec.get("interfaces", [])
    abilities: list[type[Interface]] = [IConnection, *([IDisks] if wanted else []), *([INetworks] if plugs else [])]
    if any("image" in disk for disk in wanted):
        abilities += [IImages, IVolumes]
    if "template" in spec:
        abilities.append(ITemplates)
    node = await place(job, spec, owner, shape, *abilities, home=_home(job, wanted))
    for ability in abilities:
        await job.connection(node.id, ability)
    shares = await shares_of(job, owner, node.id)
    check_networks(job, node, plugs)
    boot = spec.get("boot", {})
    check_boot(job, node, boot)
    interfaces = tuple(new_interface(job, plug) for plug in plugs)
    vm = VM(
        id=job.target,
        name=spec["name"],
        owner=owner,
        state="creating",
        uuid=str(uuid4()),
        compute_node=node.id,
        driver=node.driver,
        vcpus=vcpus,
        max_vcpus=most_vcpus,
        memory=memory,
        max_memory=most_memory,
        interfaces=interfaces,
        description=spec.get("description", ""),
        tags=tuple(spec.get("tags", ())),
        autostart=spec.get("autostart", False),
        boot=boot,
        created=job.wall_clock(),
        shares=shares,
        template=spec.get("template", ""),
    )
    sizes = [disk["size"] for disk in wanted if "size" in disk]
    given = [job.inventory.get(Disk, disk["disk"]).size for disk in wanted if "disk" in disk]
    check_vm(job.inventory, owner, {**one_vm(vm), "vm_disk": sum(sizes) + sum(given)})
    job.reserve_for(owner, vms=1, **can_get(vm), disks=len(sizes), disk_space=sum(sizes))
    # Recorded together at the end: changes recorded before a failing check would be stored with the failure.
    facts: list[Change] = [Create(vm)]
    for number, disk in enumerate(wanted):
        target = "vd" + "abcdefghijklmnopqrstuvwx"[number]
        if "disk" in disk:
            existing = job.inventory.get(Disk, disk["disk"])
            check_attachable(job.inventory, existing, vm)
            facts.append(Update("disk", existing.id, {"vm": vm.id, "target": target}))
        else:
            name = f"{vm.name[:50]}-{target}"
            free_name(job.inventory, Disk, name, owner)
            facts.append(Create(new_disk(job, disk, name, owner, node, vm=vm.id, target=target)))
    job.put(*facts)
    await job.flush()
    job.unreserve()
    return vm


def _home(job: Job, disks: Iterable[Mapping[str, Any]]) -> int | None:
    """
    Return the compute node of a new VM's existing disks; C{None}: it has none.

    @raise Conflict: they are on several nodes.
    """
    places: dict[int, str] = {}
    for disk in disks:
        if "disk" in disk:
            existing = job.inventory.get(Disk, disk["disk"])
            places.setdefault(existing.compute_node, existing.name)
    if len(places) > 1:
        told = ", ".join(f"{name} on {job.inventory.get(ComputeNode, id).name}" for id, name in places.items())
        raise Conflict(f"The VM's disks are on several compute nodes ({told}): all disks of a VM must be on the same one.")
    return next(iter(places), None)


def largest_pool(disks: Iterable[Mapping[str, Any]]) -> tuple[str, int]:
    """Return the storage pool in which the disks, structs with C{size}, need most space, and how much (MiB)."""
    sums: Counter[str] = Counter()
    for disk in disks:
        sums[disk.get("pool", DEFAULT_POOL)] += disk["size"]
    return sums.most_common(1)[0] if sums else ("", 0)


def domain_spec(vm: VM, disks: Iterable[DomainDisk]) -> DomainSpec:
    """Return a VM in the form that drivers take."""
    given = vm.boot
    order = tuple(given.get("order", ("disk",)))
    boot = Boot(given.get("kernel", ""), given.get("initrd", ""), given.get("cmdline", ""), order)
    return DomainSpec(
        uuid=vm.uuid,
        name=vm.domain_name,
        vcpus=vm.vcpus,
        max_vcpus=vm.max_vcpus,
        memory=vm.memory,
        max_memory=vm.max_memory,
        disks=tuple(disks),
        boot=boot,
        autostart=vm.autostart,
        interfaces=tuple(domain_interface(interface) for interface in vm.interfaces),
        shares=Shares(**vm.shares),
        template=vm.template,
    )


def disks_of(job: Job, vm: int) -> list[DomainDisk]:
    """Return a VM's disks in the form that drivers take."""
    return [DomainDisk(disk.path, disk.format, str(disk.target)) for disk in job.inventory.disks_of(vm)]


async def remove_made(job: Job, vm: VM, given: Collection[int]) -> None:
    """Remove what a failed creation has left, on the hypervisor and here. @param given: the ids of disks that stay."""
    try:
        connection = await job.connection(vm.compute_node)
        await connection.undefine_domain(vm.uuid)
        for disk in job.inventory.disks_of(vm.id):
            if disk.id not in given:
                await delete_volume(job, disk)
    except Exception as error:
        # The record stays, as missing: without it, a domain that may exist would be orphaned.
        job.put(Update("vm", vm.id, vm_state("missing")))
        job.status(f"cleaning up failed: {error}")
        return
    for disk in job.inventory.disks_of(vm.id):
        if disk.id in given:
            job.put(Update("disk", disk.id, {"vm": None, "target": None}))
        else:
            job.put(Delete("disk", disk.id))
    job.put(Delete("vm", vm.id))


@task("vm", after_crash=AfterCrash.LOOK)
async def delete_vm(job: Job, vm: VmId, options: DeleteOptions = {}) -> None:  # noqa: B006
    """Delete a stopped VM with its snapshots and disks. With keep_disks, its disks are detached instead of deleted."""
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node)
    try:
        info = await connection.get_domain(record.uuid)
        if info.state not in (DomainState.STOPPED, DomainState.CRASHED):
            raise Conflict(f"VM {record.name} is {info.state}: stop it first.")
        if options.get("keep_disks") and job.nodes.provides(record.compute_node, ISnapshots):
            # Disks that stay must not contain snapshots that are no longer known.
            snapshots = await job.connection(record.compute_node, ISnapshots)
            for snapshot in await snapshots.list_snapshots(record.uuid):
                job.status(f"deleting snapshot {snapshot.name}")
                await snapshots.delete_snapshot(record.uuid, snapshot.name)
                job.put(Update("vm", vm, {"snapshots": _without(job, vm, snapshot.name)}))
                await job.flush()
    except NoSuchThing:
        pass  # removed by someone else or by an interrupted run of this task: the rest must still be deleted
    await connection.undefine_domain(record.uuid)
    for disk in job.inventory.disks_of(vm):
        if options.get("keep_disks"):
            job.put(Update("disk", disk.id, {"vm": None, "target": None}))
        else:
            job.status(f"deleting disk {disk.name}")
            await delete_volume(job, disk)
            job.put(Delete("disk", disk.id))
    job.put(Delete("vm", vm))


def _without(job: Job, vm: int, name: str) -> tuple[Mapping[str, Any], ...]:
    return tuple(one for one in job.inventory.get(VM, vm).snapshots if one["name"] != name)


@query("struct")
def get_vm(call: Call, vm: VmId) -> Rendered:
    """Return a VM."""
    return show(call, "vm", vm)


@query("array")
def list_vms(call: Call, filter: VmFilter = {}) -> Members:  # noqa: B006
    """List the VMs that the caller may see."""
    return list_objects(call, "vm", filter)
