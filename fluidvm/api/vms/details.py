"""Changing a VM's description, its tags and how it boots."""

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
        "the properties to change; absent ones stay as they are",
        fields={
            "description": Text("free text", longest=4096),
            "tags": Array("tags to find the VM by", of=named("a tag"), unique=True),
        },
    ),
]
Autostart = Annotated[bool, Bool("whether the VM is started when its host starts")]


@task("vm")
async def set_vm_details(job: Job, vm: VmId, details: Details) -> None:
    """Change a VM's description and tags."""
    job.inventory.get(VM, vm)
    job.put(Update("vm", vm, {key: tuple(value) if key == "tags" else value for key, value in details.items()}))


async def _redefine(job: Job, vm: int, **fields: Any) -> None:
    """Define a stopped VM again on its hypervisor, with changed fields."""
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
    """Choose whether a VM is started when its host starts. The VM must be stopped."""
    await _redefine(job, vm, autostart=autostart)


def _check_boot(call: Call, vm: int, boot: dict[str, Any]) -> None:
    check_kernel("boot", boot)


@task("vm", precheck=_check_boot)
async def set_vm_boot(job: Job, vm: VmId, boot: Annotated[dict[str, Any], BootKind]) -> None:
    """Change what a stopped VM boots from its next start on."""
    check_boot(job, job.inventory.get(ComputeNode, job.inventory.get(VM, vm).compute_node), boot)
    await _redefine(job, vm, boot=boot)
