"""Networks of compute nodes, and VMs' interfaces in them."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.listing import page
from fluidvm.api.vms.shares import put_shares
from fluidvm.auth.permissions import administers, reads_all
from fluidvm.driver import DomainInterface, DriverError, INetworks, Unreachable
from fluidvm.engine.job import Job
from fluidvm.model.declare import query, task
from fluidvm.model.faults import Conflict, Forbidden, NotFound
from fluidvm.model.kinds import Choice, Int, NodeId, References, Struct, Text, VmId, filter_of, named, refuse
from fluidvm.model.objects import VM, ComputeNode
from fluidvm.model.xmlvalue import Members
from fluidvm.store.objects import Update

PREFIX = "52:54:00"
"""What generated addresses begin with: locally administered, and QEMU's by custom."""
MOST = 16
"""Interfaces that a VM can have."""
TRIES = 1000


@dataclass(frozen=True)
class Address(Text):
    """An IPv4 or IPv6 address."""

    def accept(self, value: str, path: str, found: References) -> str:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            refuse(path, "must be an IPv4 or IPv6 address")


InterfaceKind = Struct(
    "a network interface",
    fields={
        "network": named("the compute node's network that it is in"),
        # The tap devices of Linux bridges take no address that begins with fe (libvirt's virNetDevTapCreate).
        "mac": Text(
            "its address, unique in the fleet; default: a new one",
            longest=17,
            pattern=r"(?![Ff][Ee])[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}",
            rule="six pairs of hexadecimal digits with colons, a station's address (no multicast), not beginning with fe",
        ),
        "address": Address("the IP address that the guest is to have; kept for people, nothing enforces it", longest=45),
        "model": Choice(
            "what the guest sees; default: the driver's usual one",
            choices=("virtio", "e1000", "e1000e", "rtl8139", "netfront"),
        ),
    },
    required=("network",),
)
NewInterface = Annotated[dict[str, Any], InterfaceKind]
InterfaceId = Annotated[int, Int("id of one of the VM's interfaces", low=1)]


def new_interface(job: Job, spec: Mapping[str, Any]) -> dict[str, Any]:
    """
    Decide all of a new interface before the hypervisor is asked; its address is set aside until L{Job.unreserve}.

    @raise Conflict: its address is another interface's.
    """
    mac = spec.get("mac", "").lower()
    if mac and not job.reserve_mac(mac):
        raise Conflict(f"Another interface already has the address {mac}.")
    made = {"id": job.inventory.next_id("interface"), "network": spec["network"], "mac": mac or _free_mac(job)}
    return made | {key: spec[key] for key in ("address", "model") if key in spec}


def _free_mac(job: Job) -> str:
    for _ in range(TRIES):
        mac = f"{PREFIX}:{secrets.token_bytes(3).hex(':')}"
        if job.reserve_mac(mac):
            return mac
    raise Conflict(f"No free address was found that begins with {PREFIX}: specify one as mac.")


def check_networks(job: Job, node: ComputeNode, interfaces: Iterable[Mapping[str, Any]]) -> None:
    """@raise Forbidden: a plain user names a network that the administrator hasn't opened."""
    allowed = node.options.get("user_networks")
    if allowed is None or administers(job.user()):
        return
    for interface in interfaces:
        if interface["network"] not in allowed:
            raise Forbidden(f"Network {interface['network']} is not one of the user_networks of compute node {node.name}.")


def domain_interface(interface: Mapping[str, Any]) -> DomainInterface:
    """An interface as its hypervisor is to define it."""
    return DomainInterface(interface["mac"], interface["network"], interface.get("model", ""))


@task("vm", needs=(INetworks,))
async def attach_interface(job: Job, vm: VmId, interface: NewInterface) -> int:
    """
    Give a VM an interface: at once if it runs, and for its next starts. The result is the interface's id.

    The interface and its address are durable before the hypervisor is asked. If the compute node stops answering meanwhile,
    the task fails and the VM keeps the interface in its record: whether it has it isn't known; detach_interface settles it.
    """
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node, INetworks)
    made = next((one for one in record.interfaces if one["id"] == job.memo.get("interface")), None)
    if made is None:
        if len(record.interfaces) >= MOST:
            raise Conflict(f"VM {record.name} already has {MOST} interfaces, which is the maximum.")
        check_networks(job, job.inventory.get(ComputeNode, record.compute_node), [interface])
        made = new_interface(job, interface)
        job.put(Update("vm", vm, {"interfaces": (*record.interfaces, made)}))
        job.memo["interface"] = made["id"]
        await job.flush()
        job.unreserve()
    try:
        await connection.attach_interface(record.uuid, domain_interface(made))
    except DriverError as error:
        if not isinstance(error, Unreachable):
            job.put(Update("vm", vm, {"interfaces": _without(job, vm, made["id"])}))
        raise
    await put_shares(job, vm, plugged=True)
    return int(made["id"])


def _without(job: Job, vm: int, interface: int) -> tuple[Mapping[str, Any], ...]:
    return tuple(one for one in job.inventory.get(VM, vm).interfaces if one["id"] != interface)


@task("vm", needs=(INetworks,))
async def detach_interface(job: Job, vm: VmId, interface: InterfaceId) -> None:
    """Take an interface from a VM: at once if it runs, when its guest lets go, and for its next starts."""
    record = job.inventory.get(VM, vm)
    there = next((one for one in record.interfaces if one["id"] == interface), None)
    if there is None:
        raise NotFound(f"VM {record.name} has no interface {interface}.")
    connection = await job.connection(record.compute_node, INetworks)
    await connection.detach_interface(record.uuid, there["mac"])
    job.put(Update("vm", vm, {"interfaces": _without(job, vm, interface)}))


NetworkFilter = Annotated[dict[str, Any], filter_of({"name": str, "active": bool, "bridge": str}, "name")]


@query("array")
async def list_networks(call: Call, node: NodeId, filter: NetworkFilter = {}) -> Members:  # noqa: B006
    """
    List a compute node's networks, by name: structs of name, active and, where the host has one for it, bridge.

    Plain users see those that they may use.
    """
    connection = await call.services.resources.nodes.connection(node, INetworks)
    networks = await connection.list_networks()
    if not reads_all(call.user):
        allowed = call.inventory.get(ComputeNode, node).options.get("user_networks")
        networks = [network for network in networks if allowed is None or network.name in allowed]
    wires = (
        {"name": network.name, "active": network.active} | ({"bridge": network.bridge} if network.bridge else {})
        for network in networks
    )
    return page("network", wires, filter)
