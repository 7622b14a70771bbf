"""Compute nodes: added and read."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.api.listing import list_objects, show
from fluidvm.call import Call
from fluidvm.declare import query, task
from fluidvm.driver_loader import BrokenDriver, UnknownDriver
from fluidvm.engine.job import Job
from fluidvm.faults import Conflict, InvalidParams, Unsupported
from fluidvm.kinds import Array, Id, Kind, Struct, Text, filter_of, named
from fluidvm.objects import ComputeNode
from fluidvm.store.objects import Create
from fluidvm.xmlvalue import Rendered

SERVER_OPTIONS: dict[str, Kind] = {
    "labels": Array("words that VM specs can ask for", of=named("a label"), unique=True),
    "boot_dirs": Array(
        "directories of the host; plain users' VMs may boot kernels from nowhere else",
        of=Text("a directory", longest=1024, pattern=r"(/[A-Za-z0-9._+-]+)+", rule="an absolute path"),
    ),
}
NodeOptions = Annotated[
    dict[str, Any],
    Struct("labels, boot_dirs, and what the driver takes (see the driver's documentation)"),
]
NodeFilter = Annotated[dict[str, Any], filter_of(ComputeNode.FIELDS)]
NodeId = Annotated[int, Id("id of a compute node", type="compute_node")]


def _check(call: Call, name: str, driver: str, address: str, options: dict[str, Any] | None = None) -> None:
    if call.inventory.named(ComputeNode, name) is not None:
        raise Conflict(f"There is a compute node {name} already.")
    try:
        loaded = call.services.resources.drivers.get(driver)
    except UnknownDriver as error:
        raise InvalidParams(f"driver: {error}") from None
    except BrokenDriver as error:
        raise Unsupported(str(error)) from None
    try:
        loaded.check_address(address)
    except ValueError as error:
        raise InvalidParams(f"address: {error}") from None
    fields = {**SERVER_OPTIONS, **(loaded.options.fields or {})}
    Struct("options", fields=fields, required=loaded.options.required, either=loaded.options.either).check(
        options or {}, "options", []
    )


@task("compute_node", creates=True, roles=("admin",), early=_check)
async def add_compute_node(
    job: Job,
    name: Annotated[str, named("the compute node's name")],
    driver: Annotated[str, Text("how to speak to it: simulator, kvm...", longest=63)],
    address: Annotated[str, Text("where it is, as the driver understands it", longest=1024)],
    options: NodeOptions = {},  # noqa: B006
) -> None:
    """
    Take a hypervisor host into the fleet, and watch it from now on.

    The task ends when the first attempt to connect has; a host that couldn't be reached is offline, with the reason, and is
    tried again until it answers.
    """
    node = job.inventory.find(ComputeNode, job.target)
    if node is None:
        if job.inventory.named(ComputeNode, name) is not None:
            raise Conflict(f"There is a compute node {name} already.")
        node = ComputeNode(
            id=job.target, name=name, driver=driver, address=address, mode="active", state="connecting", reason="",
            labels=tuple(options.get("labels", ())), options=options, vcpus=0, memory=0, driver_version="",
            hypervisor_version="", created=job.wall_clock(),
        )  # fmt: skip
        job.put(Create(node))
        await job.flush()
    job.status(f"connecting to {name}")
    await job.nodes.watch(node)


@query("struct")
def get_compute_node(call: Call, node: NodeId) -> Rendered:
    """Tell about a compute node; plain users don't see its address and its reason for being offline."""
    return show(call, "compute_node", node)


@query("array")
def list_compute_nodes(call: Call, filter: NodeFilter = {}) -> Rendered:  # noqa: B006
    """List the compute nodes."""
    return list_objects(call, "compute_node", filter)
