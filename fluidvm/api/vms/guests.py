"""Commands and settings inside guests, their network settings, and limits of containers."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from twisted.internet.defer import Deferred

from fluidvm.access.call import Call
from fluidvm.api.listing import selected
from fluidvm.api.vms.networks import Address
from fluidvm.driver import IGuest, IGuestNetwork, ILimits, IScreenshot, ITemplates, Limits, NoSuchThing
from fluidvm.engine.job import Job
from fluidvm.model.declare import AfterCrash, query, task
from fluidvm.model.faults import NotFound
from fluidvm.model.kinds import Array, Int, NodeId, References, Secret, Struct, Text, VmId, filter_of, refuse
from fluidvm.model.objects import VM
from fluidvm.nodes.watch import Ability

T = TypeVar("T")
OUTPUT = 64 * 1024
"""Characters that are stored of a command's standard output, and of its standard error."""
ADDRESS = r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?"
HOST_NAME = r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
HOST_RULE = "a host name (RFC 1123)"


@dataclass(frozen=True)
class HostAddress(Text):
    """An IPv4 or IPv6 address, with or without a prefix length."""

    def accept(self, value: str, path: str, found: References) -> str:
        try:
            ipaddress.ip_interface(value)
        except ValueError:
            refuse(path, "must be an IPv4 or IPv6 address, with or without a prefix length")
        return value


Argv = Annotated[
    list[str],
    Array("the command and its arguments; no shell is used", of=Text("an argument", longest=4096), longest=256, shortest=1),
]
Seconds = Annotated[int, Int("timeout; default: 10", unit="s", low=1, high=60)]
GuestUser = Annotated[str, Text("name of a user in the guest", longest=32, pattern=r"[a-z_][a-z0-9_-]*", rule="a user name")]
GuestPassword = Annotated[
    str, Secret("the new password", longest=256, least=1, pattern=r"[^\x00-\x1f\x7f]*", rule="one line")
]
SshKey = Annotated[
    str,
    Text(
        "the public key, as in an authorized_keys file",
        longest=8192,
        pattern=r"(ssh-(rsa|ed25519)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
        r" [A-Za-z0-9+/]+={0,3}( [\x20-\x7e]*)?",
        rule="a public key's type, the key in base64, and optionally a comment",
    ),
]
IpAddress = Annotated[str, HostAddress("IP address, for example 192.0.2.7/24", longest=49, pattern=ADDRESS)]
HostName = Annotated[str, Text("the new host name", longest=253, pattern=HOST_NAME, rule=HOST_RULE)]
Servers = Annotated[
    list[str],
    Array(
        "IP addresses of the name servers, in the order in which they are queried",
        of=Address("a name server", longest=45, pattern=ADDRESS),
        longest=8,
        shortest=1,
    ),
]
Domains = Annotated[
    list[str],
    Array(
        "search domains; default: unchanged",
        of=Text("a domain", longest=253, pattern=HOST_NAME, rule=HOST_RULE),
        longest=8,
    ),
]
LimitValues = Annotated[
    dict[str, Any],
    Struct(
        "the limits to change; absent ones stay as they are",
        fields={
            "swap": Int("swap space", unit="MiB", low=0),
            "disk_space": Int("size of its own file system", unit="MiB", low=1),
            "inodes": Int("number of files", low=1),
            "cpu_limit": Int("CPU time of all its CPUs together, in percent of one CPU; 0: no limit", low=0, high=102400),
        },
    ),
]


TemplateFilter = Annotated[dict[str, Any], filter_of({"name": str}, "name")]


@query("array")
async def list_templates(call: Call, node: NodeId, filter: TemplateFilter = {}) -> list[str]:  # noqa: B006
    """
    List the names of the OS templates of a compute node, as strings. create_vm can create a VM from them.

    For the filter, each template is a struct with the single field name.
    """
    connection = await call.services.resources.nodes.connection(node, ITemplates)
    found = selected(({"name": name} for name in await connection.list_templates()), filter, "name")
    return [one["name"] for one in found]


async def _ask(call: Call, vm: int, ability: type[Ability], ask: Callable[[Ability, str], Deferred[T]]) -> T:
    """Ask a VM's compute node. @param ask: called with its connection and the domain's UUID."""
    record = call.inventory.get(VM, vm)
    connection = await call.services.resources.nodes.connection(record.compute_node, ability)
    try:
        return await ask(connection, record.uuid)
    except NoSuchThing:
        raise NotFound(f"VM {record.name} is gone from its compute node.") from None


@query("struct")
async def get_vm_settings(call: Call, vm: VmId) -> dict[str, Any]:
    """
    Return the network settings and limits of a VM's guest other than memory and CPUs, read from its compute node now.

    Keys: addresses, nameservers and search_domains (arrays), hostname; swap (MiB), disk_space (MiB), inodes, cpu_limit
    (percent of one CPU; 0: no limit). Keys that the driver doesn't support are absent.
    """
    nodes, told = call.services.resources.nodes, {}
    node = call.inventory.get(VM, vm).compute_node
    if not nodes.provides(node, ILimits) or nodes.provides(node, IGuestNetwork):
        network = await _ask(call, vm, IGuestNetwork, lambda node, uuid: node.guest_network(uuid))
        values = asdict(network).items()
        told = {name: list(value) if isinstance(value, tuple) else value for name, value in values if value}
    if nodes.provides(node, ILimits):
        limits = await _ask(call, vm, ILimits, lambda node, uuid: node.get_limits(uuid))
        told |= {name: value for name, value in asdict(limits).items() if value is not None}
    return told


@query("base64")
async def get_vm_screenshot(call: Call, vm: VmId) -> bytes:
    """Take a screenshot of a running or paused VM. Returns a PNG file."""
    return await _ask(call, vm, IScreenshot, lambda node, uuid: node.screenshot(uuid))


@query("boolean", roles=("admin", "user"), audited=True)
async def set_vm_password(call: Call, vm: VmId, user: GuestUser, password: GuestPassword) -> bool:
    """
    Change the password of a user in a running guest. This happens at once, not as a task, so the password is never stored.

    Returns true.
    """
    await _ask(call, vm, IGuest, lambda node, uuid: node.set_password(uuid, user, password))
    return True


async def _guest(job: Job, vm: int, ability: type[Ability]) -> tuple[str, Ability]:
    """Return the UUID of a VM's domain, and the connection of its compute node."""
    record = job.inventory.get(VM, vm)
    return record.uuid, await job.connection(record.compute_node, ability)


@task("vm", roles=("admin",), after_crash=AfterCrash.REPORT, needs=(IGuest,))
async def run_in_vm(job: Job, vm: VmId, argv: Argv, timeout: Seconds = 10) -> dict[str, Any]:
    """
    Run a command as the superuser in a running guest.

    The result is a struct of code (the exit code, or a negative signal number), stdout and stderr (the first 64 Ki
    characters of each). Don't pass secrets: the command is written to the audit log, and its result is stored with the
    execution context.
    """
    uuid, node = await _guest(job, vm, IGuest)
    done = await node.run_in_guest(uuid, argv, b"", float(timeout))
    return {"code": done.code, "stdout": done.stdout[:OUTPUT], "stderr": done.stderr[:OUTPUT]}


@task("vm", needs=(IGuest,))
async def add_vm_ssh_key(job: Job, vm: VmId, key: SshKey) -> None:
    """Authorize an SSH key to log in as the superuser of a running guest."""
    uuid, node = await _guest(job, vm, IGuest)
    await node.add_ssh_key(uuid, key)


@task("vm", roles=("admin",), needs=(IGuestNetwork,))
async def add_vm_address(job: Job, vm: VmId, address: IpAddress) -> None:
    """Add an IP address to a VM: at once if it is running, and for later starts."""
    uuid, node = await _guest(job, vm, IGuestNetwork)
    await node.add_address(uuid, address)


@task("vm", roles=("admin",), needs=(IGuestNetwork,))
async def remove_vm_address(job: Job, vm: VmId, address: IpAddress) -> None:
    """Remove an IP address from a VM: at once if it is running, and for later starts."""
    uuid, node = await _guest(job, vm, IGuestNetwork)
    await node.remove_address(uuid, address)


@task("vm", needs=(IGuestNetwork,))
async def set_vm_hostname(job: Job, vm: VmId, name: HostName) -> None:
    """Set the host name of a VM's guest: at once if it is running, and for later starts."""
    uuid, node = await _guest(job, vm, IGuestNetwork)
    await node.set_hostname(uuid, name)


@task("vm", needs=(IGuestNetwork,))
async def set_vm_nameservers(job: Job, vm: VmId, servers: Servers, search_domains: Domains = []) -> None:  # noqa: B006
    """Set the name servers of a VM's guest: at once if it is running, and for later starts."""
    uuid, node = await _guest(job, vm, IGuestNetwork)
    await node.set_nameservers(uuid, servers, search_domains)


@task("vm", roles=("admin",), needs=(ILimits,))
async def set_vm_limits(job: Job, vm: VmId, limits: LimitValues) -> None:
    """
    Change the limits of a VM other than memory and CPUs: at once if it is running, and for later starts.

    Only administrators may do this, because the VM's own file system doesn't count in any resource plan.
    """
    values: Mapping[str, Any] = limits
    uuid, node = await _guest(job, vm, ILimits)
    await node.set_limits(uuid, Limits(**values))
