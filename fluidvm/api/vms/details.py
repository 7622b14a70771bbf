"""Changing what a VM is known by and how it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.vms.vms import BootKind, check_boot, check_kernel, disks_of, domain_spec
from fluidvm.driver import DomainState
from fluidvm.engine.job import Job
from fluidvm.model.declare import task
from fluidvm.model.faults import Conflict
from fluidvm.model.kinds import Array, Bool, Struct, Text, VmId, named
from fluidvm.model.objects import VM, ComputeNode
from fluidvm.store.objects import Update

Details = Annotated[
    dict[str, Any],
    Struct(
        "what is to be known of the VM; the rest stays",
        fields={
            "description": Text("for people", longest=4096),
            "tags": Array("words to find it by", of=named("a tag"), unique=True),
        },
    ),
]
Autostart = Annotated[bool, Bool("whether its host starts it")]


@task("vm")
async def set_vm_details(job: Job, vm: VmId, details: Details) -> None:
    """Change a VM's description and tags."""
    job.inventory.get(VM, vm)
    job.put(Update("vm", vm, {key: tuple(value) if key == "tags" else value for key, value in details.items()}))


async def _redefine(job: Job, vm: int, **fields: Any) -> None:
    """Have the hypervisor define a stopped VM anew."""
    record = job.inventory.get(VM, vm)
    connection = await job.connection(record.compute_node)
    state = (await job.domain(record.compute_node, record.uuid)).state
    if state not in (DomainState.STOPPED, DomainState.CRASHED):
        raise Conflict(f"VM {record.name} is {state}: stop it first.")
    spec = domain_spec(replace(record, **fields), disks_of(job, vm))
    await connection.define_domain(spec)
    job.put(Update("vm", vm, fields))


@task("vm")
async def set_vm_autostart(job: Job, vm: VmId, autostart: Autostart) -> None:
    """Have a stopped VM started or not when its host starts."""
    await _redefine(job, vm, autostart=autostart)


def _check_boot(call: Call, vm: int, boot: dict[str, Any]) -> None:
    check_kernel("boot", boot)


@task("vm", precheck=_check_boot)
async def set_vm_boot(job: Job, vm: VmId, boot: Annotated[dict[str, Any], BootKind]) -> None:
    """Have a stopped VM boot something else from its next start on."""
    check_boot(job, job.inventory.get(ComputeNode, job.inventory.get(VM, vm).compute_node), boot)
    await _redefine(job, vm, boot=boot)
