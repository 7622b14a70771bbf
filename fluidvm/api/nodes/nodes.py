"""Adding, changing, reading and removing compute nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.listing import list_objects, page, show
from fluidvm.driver.loader import BrokenDriver, UnknownDriver
from fluidvm.engine.job import Job
from fluidvm.inventory.ledger import of_node
from fluidvm.model.declare import query, task
from fluidvm.model.faults import Conflict, InvalidParams, Unsupported, sentence
from fluidvm.model.kinds import Array, Choice, Double, Int, Kind, NodeId, Struct, Text, filter_of, named
from fluidvm.model.object_fields import wire_fields
from fluidvm.model.objects import ComputeNode
from fluidvm.model.xmlvalue import Members, Rendered
from fluidvm.store.objects import Create, Delete, Update

SERVER_OPTIONS: dict[str, Kind] = {
    "labels": Array("labels that the spec of a VM can require", of=named("a label"), unique=True),
    "vcpu_overcommit": Double("number of virtual CPUs per CPU of the host; default: 16", low=0.01, high=1000.0),
    "memory_overcommit": Double("memory of VMs per MiB of unreserved memory of the host; default: 1", low=0.01, high=100.0),
    "reserved_memory": Int("memory reserved for the host itself; default: 0", unit="MiB", low=0),
    "weight": Double("preference of this node in placement, higher is preferred; default: 1", low=0.01, high=1000.0),
    "boot_dirs": Array(
        "directories of the host from which plain users' VMs may boot kernels; default: none",
        of=Text("a directory", longest=1024, pattern=r"(/[A-Za-z0-9._+-]+)+", rule="an absolute path"),
    ),
    "user_networks": Array("networks of the host that plain users' VMs may use; default: all", of=named("a network")),
}
NodeOptions = Annotated[
    dict[str, Any],
    Struct(f"{', '.join(SERVER_OPTIONS)}, and the options of the driver (see the driver's documentation)"),
]
NodeChanges = Annotated[dict[str, Any], Struct("the options to change; absent ones stay as they are", fields=SERVER_OPTIONS)]
NodeFilter = Annotated[dict[str, Any], filter_of(wire_fields(ComputeNode))]
MODES = ("active", "cordoned", "maintenance")
NodeName = Annotated[str, named("the compute node's name")]
DriverName = Annotated[str, Text("name of the driver: simulator, kvm...", longest=63)]
Address = Annotated[str, Text("address of the host, in the form that the driver expects", longest=1024)]
Mode = Annotated[str, Choice("the new mode", choices=MODES)]


def _check(call: Call, name: str, driver: str, address: str, options: dict[str, Any] | None = None) -> None:
    if call.inventory.named(ComputeNode, name) is not None:
        raise Conflict(f"A compute node named {name} already exists.")
    try:
        loaded = call.services.resources.drivers.get(driver)
    except UnknownDriver as error:
        raise InvalidParams(sentence(f"driver: {error}")) from None
    except BrokenDriver as error:
        raise Unsupported(sentence(str(error))) from None
    try:
        loaded.check_address(address)
    except ValueError as error:
        raise InvalidParams(sentence(f"address: {error}")) from None
    fields = {**SERVER_OPTIONS, **(loaded.options.fields or {})}
    Struct("options", fields=fields, required=loaded.options.required, either=loaded.options.either).check(
        options or {}, "options", []
    )


@task("compute_node", creates=True, roles=("admin",), precheck=_check)
async def add_compute_node(
    job: Job,
    name: NodeName,
    driver: DriverName,
    address: Address,
    options: NodeOptions = {},  # noqa: B006
) -> None:
    """
    Add a hypervisor host as a compute node, and monitor it from now on.

    The task ends after the first attempt to connect. A host that can't be reached is marked offline, with the reason, and
    the server retries until it answers.
    """
    node = job.inventory.find(ComputeNode, job.target)
    if node is None:
        if job.inventory.named(ComputeNode, name) is not None:
            raise Conflict(f"A compute node named {name} already exists.")
        node = ComputeNode(
            id=job.target,
            name=name,
            driver=driver,
            address=address,
            mode="active",
            state="connecting",
            reason="",
            labels=tuple(options.get("labels", ())),
            options=options,
            vcpus=0,
            memory=0,
            driver_version="",
            hypervisor_version="",
            created=job.wall_clock(),
        )
        job.put(Create(node))
        await job.flush()
    job.status(f"connecting to {name}")
    await job.nodes.watch(node)


@task("compute_node", roles=("admin",))
async def set_compute_node(job: Job, node: NodeId, options: NodeChanges) -> None:
    """Change the options of a compute node, except those of its driver. They apply to what is placed from now on."""
    record = job.inventory.get(ComputeNode, node)
    changed: Mapping[str, Any] = {**record.options, **options}
    job.put(Update("compute_node", node, {"options": changed, "labels": tuple(changed.get("labels", ()))}))


@task("compute_node", roles=("admin",))
async def set_compute_node_mode(job: Job, node: NodeId, mode: Mode) -> None:
    """
    Set the mode of a compute node: active; cordoned (nothing new is created on it); maintenance (no VM is started on it
    either).

    Running VMs keep running in any mode.
    """
    job.inventory.get(ComputeNode, node)
    job.put(Update("compute_node", node, {"mode": mode}))


@task("compute_node", roles=("admin",))
async def refresh_compute_node(job: Job, node: NodeId) -> None:
    """
    Read the current state of a compute node and its guests. The server tries at once to connect to a node that is offline.

    The task fails with fault 503 if the node can't be reached.
    """
    record = job.inventory.get(ComputeNode, node)
    job.status(f"refreshing {record.name}")
    await job.nodes.refresh(node)


@task("compute_node", roles=("admin",))
async def remove_compute_node(job: Job, node: NodeId) -> None:
    """Remove a compute node that has no VMs and no disks. Guests that FluidVM didn't create keep running."""
    record = job.inventory.get(ComputeNode, node)
    for what, held in (("VM", job.inventory.vms_on(node)), ("disk", job.inventory.disks_on(node))):
        if held:
            raise Conflict(
                f"Compute node {record.name} still has objects, for example {what} {held[0].name}: move or delete them "
                "first."
            )
    if job.inventory.ledger.taken(of_node(node), "vms"):
        raise Conflict(f"A VM is being moved to compute node {record.name}: wait until the move has ended.")
    job.put(Delete("compute_node", node))
    await job.flush()
    await job.nodes.unwatch(node)


@query("struct")
def get_compute_node(call: Call, node: NodeId) -> Rendered:
    """Return a compute node. Plain users don't see its address, nor the reason why it is offline."""
    return show(call, "compute_node", node)


@query("array")
def list_compute_nodes(call: Call, filter: NodeFilter = {}) -> Members:  # noqa: B006
    """List the compute nodes."""
    return list_objects(call, "compute_node", filter)


ForeignFilter = Annotated[
    dict[str, Any], filter_of({"uuid": str, "name": str, "state": str, "vcpus": int, "memory": int}, "uuid")
]


@query("array", roles=("admin", "auditor"))
async def list_foreign_vms(call: Call, node: NodeId, filter: ForeignFilter = {}) -> Members:  # noqa: B006
    """
    List the guests of a compute node that FluidVM didn't create, by UUID: structs of uuid, name, state, vcpus, memory.

    FluidVM doesn't change these guests. Use adopt_vm to take one over.
    """
    connection = await call.services.resources.nodes.connection(node)
    domains = await connection.list_domains()
    wires = (
        {
            "uuid": domain.uuid,
            "name": domain.name,
            "state": str(domain.state),
            "vcpus": domain.vcpus,
            "memory": domain.memory,
        }
        for domain in domains
        if call.inventory.vm_of(domain.uuid) is None
    )
    return page("foreign VM", wires, filter, "uuid")
