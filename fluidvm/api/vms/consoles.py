"""VMs' consoles: what they are asked for by; their bytes go over WebSocket."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.access.consoles import KINDS
from fluidvm.model.declare import WORKERS, query
from fluidvm.model.kinds import Choice, VmId
from fluidvm.model.objects import VM
from fluidvm.model.xmlvalue import moment

ConsoleKind = Annotated[str, Choice("which one; default: serial", choices=tuple(KINDS))]


@query("struct", roles=WORKERS, audited=True, confidential=True)
async def get_vm_console(call: Call, vm: VmId, kind: ConsoleKind = "serial") -> dict[str, Any]:
    """
    Have a running VM's console opened: by a WebSocket (RFC 6455) to a path of this server's, within 30 s and once.

    Keys: kind, path (begins with /console?; whoever has it can open the console), expires. Binary messages carry what the
    guest writes and what is typed; VNC is RFB (RFC 6143), as noVNC speaks it. The console stays open as long as the session
    that asked for it, which it keeps alive.
    """
    record = call.inventory.get(VM, vm)
    ability = KINDS[kind]
    await call.services.resources.nodes.connection(record.compute_node, ability)
    ticket, expires = call.services.consoles.issue(call.session, vm, kind)
    return {"kind": kind, "path": f"/console?ticket={ticket}", "expires": moment(expires)}
