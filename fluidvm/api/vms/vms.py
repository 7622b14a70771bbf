"""VMs: made, read, deleted."""

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
from fluidvm.model.objects import VM, ComputeNode, Disk
from fluidvm.model.xmlvalue import Members, Rendered
from fluidvm.store.objects import Change, Create, Delete, Update

MEMORY_HIGH = 16 * 1024 * 1024
HostPath = Text(
    "a file of the compute node",
    longest=1024,
    pattern=r"(/(?!\.\.?(/|$))[A-Za-z0-9._+-]+)+",
    rule="an absolute path of letters, digits and ._+-",
)
NewDisk = Struct(
    "a new disk (size or image), or one that there is (disk)",
    fields={
        "image": Id("what the new disk is made of", type="image"),
        "size": Int("how big the new disk is", unit="MiB", low=1),
        "disk": Id("a detached disk: the VM goes where it is", type="disk"),
        "pool": named("the storage pool; default: default"),
        "format": Text("the new disk's format", longest=16, pattern=r"[a-z0-9]+", rule="letters and digits"),
    },
    either=(("size", "disk"), ("disk", "pool"), ("disk", "format"), ("disk", "image")),
)
Template = Text(
    "the OS template that its file system is made of, from list_templates; default: the compute node's usual one",
    longest=127,
    pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    rule="letters, digits, dots, dashes and underscores",
)
FORCE = Bool("whether the compute node's room isn't looked at (administrators)")
BootKind = Struct(
    "what it boots: a kernel of the compute node's, or its devices in order",
    fields={
        "kernel": HostPath,
        "initrd": HostPath,
        "cmdline": Text("the kernel's command line", longest=2048, pattern=r"[\x20-\x7e]*", rule="printable ASCII"),
        "order": Array("first wins", of=Choice("a device", choices=("disk", "network", "cdrom")), longest=3, unique=True),
    },
    either=(("kernel", "order"), ("initrd", "order"), ("cmdline", "order")),
)
VmSpec = Annotated[
    dict[str, Any],
    Struct(
        "the VM",
        fields={
            "name": named("its name, unique among its owner's VMs"),
            "vcpus": Int("virtual CPUs; default: the resource plan's, else 1", low=1, high=1024),
            "max_vcpus": Int("how many it can have while it runs, which is what counts; default: vcpus", low=1, high=1024),
            "memory": Int("memory; default: the resource plan's, else 512", unit="MiB", low=16, high=MEMORY_HIGH),
            "max_memory": Int(
                "how much it can have while it runs, which is what counts; default: memory",
                unit="MiB",
                low=16,
                high=MEMORY_HIGH,
            ),
            "disks": Array(
                "its disks: vda, vdb...; default: one as the resource plan says, else none", of=NewDisk, longest=24
            ),
            "interfaces": Array("its network interfaces; default: none", of=InterfaceKind, longest=MOST),
            "compute_node": Id("where; default: where its disks are, else placed", type="compute_node"),
            "driver": Text("placed on a node of this driver", longest=63, pattern=NAME_PATTERN, rule=NAME_RULE),
            "labels": Array("placed on a node with all of these", of=named("a label")),
            "owner": Id("whose it is; default: the caller's", type="user"),
            "description": Text("for people", longest=4096),
            "tags": Array("words to find it by", of=named("a tag"), unique=True),
            "autostart": Bool("whether the host starts it when the host starts"),
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
    Struct("what to keep", fields={"keep_disks": Bool("detach its disks instead of deleting them")}),
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
    """@raise InvalidParams: there is an initrd or a command line, and no kernel."""
    if ("initrd" in boot or "cmdline" in boot) and "kernel" not in boot:
        raise InvalidParams(f"{path}.kernel: is missing.")


def check_boot(job: Job, node: ComputeNode, boot: dict[str, Any]) -> None:
    """A kernel's bytes reach the guest: what a plain user may name, the administrator has to have allowed."""
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
        (IShares, "within shares"),
        (ITemplates, "from a template"),
    ),
)
async def create_vm(job: Job, spec: VmSpec) -> None:
    """
    Make a VM, stopped, with its disks and interfaces.

    It goes to the compute node that is named, or where its disks are, else where it fits best. The node must have room for
    the memory and virtual CPUs that the VM can get; an administrator can have that left out of account (force).

    Its record and its disks' are durable before the hypervisor is asked; if anything fails, what was made is removed.
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
        raise  # the server stops: its next start goes on here
    except Exception:
        job.take_facts()
        await remove_made(job, vm, {disk["disk"] for disk in spec.get("disks", ()) if "disk" in disk})
        raise
    job.put(Update("vm", vm.id, {"state": "stopped"}))


async def _plan(job: Job, spec: dict[str, Any]) -> VM:
    """Decide everything and make it durable: where, the UUID, the volumes' names."""
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
    # Noted together at the end: what is noted when a check fails would be stored with the failure.
    facts: list[Change] = [Create(vm)]
    for number, disk in enumerate(wanted):
        target = "vd" + "abcdefghijklmnopqrstuvwx"[number]
        if "disk" in disk:
            there = job.inventory.get(Disk, disk["disk"])
            check_attachable(job.inventory, there, vm)
            facts.append(Update("disk", there.id, {"vm": vm.id, "target": target}))
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
    On which compute node a new VM's disks are that there are; C{None}: there are none.

    @raise Conflict: on several.
    """
    places: dict[int, str] = {}
    for disk in disks:
        if "disk" in disk:
            there = job.inventory.get(Disk, disk["disk"])
            places.setdefault(there.compute_node, there.name)
    if len(places) > 1:
        told = ", ".join(f"{name} on {job.inventory.get(ComputeNode, id).name}" for id, name in places.items())
        raise Conflict(f"The VM's disks are on several compute nodes ({told}): all disks of a VM must be on the same one.")
    return next(iter(places), None)


def largest_pool(disks: Iterable[Mapping[str, Any]]) -> tuple[str, int]:
    """In which storage pool disks of C{size} take most, and how much."""
    sums: Counter[str] = Counter()
    for disk in disks:
        sums[disk.get("pool", DEFAULT_POOL)] += disk["size"]
    return sums.most_common(1)[0] if sums else ("", 0)


def domain_spec(vm: VM, disks: Iterable[DomainDisk]) -> DomainSpec:
    """A VM as its hypervisor is to define it."""
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
    """A VM's disks as its hypervisor sees them."""
    return [DomainDisk(disk.path, disk.format, str(disk.target)) for disk in job.inventory.disks_of(vm)]


async def remove_made(job: Job, vm: VM, given: Collection[int]) -> None:
    """Remove what a failed creation has made, on the hypervisor and here. C{given}: the ids of disks that stay."""
    try:
        connection = await job.connection(vm.compute_node)
        await connection.undefine_domain(vm.uuid)
        for disk in job.inventory.disks_of(vm.id):
            if disk.id not in given:
                await delete_volume(job, disk)
    except Exception as error:
        # The record stays and says so: forgetting it would orphan what may be there.
        job.put(Update("vm", vm.id, {"state": "missing"}))
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
    """Delete a stopped VM with its snapshots and disks, or with keep_disks detach the disks."""
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node)
    try:
        info = await connection.get_domain(record.uuid)
        if info.state not in (DomainState.STOPPED, DomainState.CRASHED):
            raise Conflict(f"VM {record.name} is {info.state}: stop it first.")
        if options.get("keep_disks") and job.nodes.provides(record.compute_node, ISnapshots):
            # What stays mustn't have in it what nobody knows any more.
            snapshots = await job.connection(record.compute_node, ISnapshots)
            for snapshot in await snapshots.list_snapshots(record.uuid):
                job.status(f"deleting snapshot {snapshot.name}")
                await snapshots.delete_snapshot(record.uuid, snapshot.name)
                job.put(Update("vm", vm, {"snapshots": _without(job, vm, snapshot.name)}))
                await job.flush()
    except NoSuchThing:
        pass  # gone behind our back, or by an interrupted run of this task: the rest is still to do
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
    """Tell about a VM as it is now."""
    return show(call, "vm", vm)


@query("array")
def list_vms(call: Call, filter: VmFilter = {}) -> Members:  # noqa: B006
    """List the VMs that the caller may see."""
    return list_objects(call, "vm", filter)
