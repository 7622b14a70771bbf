"""Networks of compute nodes, and the network interfaces of VMs."""

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
"""Prefix of generated addresses: locally administered, and by convention QEMU's."""
MOST = 16
"""Maximum number of interfaces of a VM."""
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
        "network": named("the network of the compute node to connect it to"),
        # The tap devices of Linux bridges take no address that begins with fe (libvirt's virNetDevTapCreate).
        "mac": Text(
            "MAC address, unique on this server; default: a generated one",
            longest=17,
            pattern=r"(?![Ff][Ee])[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}",
            rule="six pairs of hexadecimal digits separated by colons, unicast (not multicast), not beginning with fe",
        ),
        "address": Address("IP address of the guest, for documentation only; it isn't configured or enforced", longest=45),
        "model": Choice(
            "model that the guest sees; default: the driver's usual one",
            choices=("virtio", "e1000", "e1000e", "rtl8139", "netfront"),
        ),
    },
    required=("network",),
)
NewInterface = Annotated[dict[str, Any], InterfaceKind]
InterfaceId = Annotated[int, Int("id of one of the VM's interfaces", low=1)]


def new_interface(job: Job, spec: Mapping[str, Any]) -> dict[str, Any]:
    """
    Decide all properties of a new interface before the hypervisor is asked. Reserves its address until L{Job.unreserve}.

    @raise Conflict: another interface has the address.
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
    """@raise Forbidden: a plain user names a network that isn't in user_networks."""
    allowed = node.options.get("user_networks")
    if allowed is None or administers(job.user()):
        return
    for interface in interfaces:
        if interface["network"] not in allowed:
            raise Forbidden(f"Network {interface['network']} is not one of the user_networks of compute node {node.name}.")


def domain_interface(interface: Mapping[str, Any]) -> DomainInterface:
    """Return an interface in the form that drivers take."""
    return DomainInterface(interface["mac"], interface["network"], interface.get("model", ""))


@task("vm", needs=(INetworks,))
async def attach_interface(job: Job, vm: VmId, interface: NewInterface) -> int:
    """
    Attach an interface to a VM: at once if it is running, and for later starts. The result is the interface's id.

    The interface and its address are stored before the hypervisor is asked. If the compute node stops answering meanwhile,
    the task fails and the VM keeps the interface in its record, but it isn't known whether the interface exists. Use
    detach_interface to remove it.
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
    """Detach an interface from a VM: at once if it is running (as soon as its guest releases it), and for later starts."""
    record = job.inventory.get(VM, vm)
    found = next((one for one in record.interfaces if one["id"] == interface), None)
    if found is None:
        raise NotFound(f"VM {record.name} has no interface {interface}.")
    connection = await job.connection(record.compute_node, INetworks)
    await connection.detach_interface(record.uuid, found["mac"])
    job.put(Update("vm", vm, {"interfaces": _without(job, vm, interface)}))


NetworkFilter = Annotated[dict[str, Any], filter_of({"name": str, "active": bool, "bridge": str}, "name")]


@query("array")
async def list_networks(call: Call, node: NodeId, filter: NetworkFilter = {}) -> Members:  # noqa: B006
    """
    List the networks of a compute node by name: structs of name, active and, if the host has a bridge for it, bridge.

    Plain users see only the networks that they may use.
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
