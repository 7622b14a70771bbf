"""Requesting a VM's console. Its bytes are sent over WebSocket, see L{fluidvm.access.consoles}."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.access.consoles import KINDS
from fluidvm.model.declare import WORKERS, query
from fluidvm.model.kinds import Choice, VmId
from fluidvm.model.objects import VM
from fluidvm.model.xmlvalue import moment

ConsoleKind = Annotated[str, Choice("which console; default: serial", choices=tuple(KINDS))]


@query("struct", roles=WORKERS, audited=True, confidential=True)
async def get_vm_console(call: Call, vm: VmId, kind: ConsoleKind = "serial") -> dict[str, Any]:
    """
    Request the console of a running VM. Returns a path of this server to which the client must open a WebSocket (RFC 6455).

    Keys: kind, path (starts with /console?), expires. The path is valid for 30 s and can be used once; anyone who has it can
    open the console. Binary messages carry the output of the guest and the input of the user. VNC is RFB (RFC 6143), as used
    by noVNC. The console stays open as long as the session that requested it, and keeps that session alive.
    """
    record = call.inventory.get(VM, vm)
    ability = KINDS[kind]
    await call.services.resources.nodes.connection(record.compute_node, ability)
    ticket, expires = call.services.consoles.issue(call.session, vm, kind)
    return {"kind": kind, "path": f"/console?ticket={ticket}", "expires": moment(expires)}
