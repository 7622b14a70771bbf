"""Reading the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.listing import listed
from fluidvm.auth.audit import FIELDS
from fluidvm.model.declare import query
from fluidvm.model.kinds import Plain, Struct, filter_of
from fluidvm.model.xmlvalue import Members

PAGE = 1000
_FILTER = filter_of(FIELDS)
AuditFilter = Annotated[
    dict[str, Any],
    Struct(
        _FILTER.words + "; `since` and `until`: from one point in time to before another",
        fields={
            **(_FILTER.fields or {}),
            "since": Plain("not before", type=datetime),
            "until": Plain("before", type=datetime),
        },
    ),
]


@query("array", roles=("admin", "auditor"))
async def list_audit(call: Call, filter: AuditFilter = {}) -> Members:  # noqa: B006
    """
    List the audit log's lines, oldest first, at most 1,000 at a time: `after` goes on from there.

    Events are authenticate, call (a task call or an administrative change), commit and outcome; code is the fault's, 0 where
    all went well. Secrets are never in it.
    """
    lines = await call.services.audit.page(filter, min(PAGE, filter.get("limit", PAGE)))
    return listed("audit log line", lines, filter)
