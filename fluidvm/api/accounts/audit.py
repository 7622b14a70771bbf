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
        _FILTER.words + "; `since` (inclusive) and `until` (exclusive): a range of time",
        fields={
            **(_FILTER.fields or {}),
            "since": Plain("this time or later", type=datetime),
            "until": Plain("earlier than this time", type=datetime),
        },
    ),
]


@query("array", roles=("admin", "auditor"))
async def list_audit(call: Call, filter: AuditFilter = {}) -> Members:  # noqa: B006
    """
    List the lines of the audit log, oldest first, at most 1,000 per call. Use `after` to get the next page.

    The events are authenticate, call (a task call or an administrative change), commit and outcome. The code is that of the
    fault, or 0 for success. The log never contains secrets.
    """
    lines = await call.services.audit.page(filter, min(PAGE, filter.get("limit", PAGE)))
    return listed("audit log line", lines, filter)
