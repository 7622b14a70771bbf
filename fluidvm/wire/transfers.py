"""What uploads and downloads share: the cookie of the caller, and how faults are answered."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from twisted.python.failure import Failure

from fluidvm.access.transfers import Transfers
from fluidvm.auth.sessions import HeldBack
from fluidvm.engine.errors import fault_of
from fluidvm.wire.request import PLAIN, Request

COOKIE = b"X-FluidVM-Cookie"
STATUSES = {-32602: 400, 401: 401, 403: 403, 404: 404, 409: 409, 413: 413, 429: 429, 501: 501, 503: 503, 507: 507}
"""The HTTP status for each fault code; 500 for others."""


def query(uri: bytes, name: str) -> str:
    """Return a parameter of a URI's query; empty unless there is exactly one."""
    values = parse_qs(uri.partition(b"?")[2].decode("ascii", "replace")).get(name, [])
    return values[0] if len(values) == 1 else ""


def cookie(request: Request, uri: bytes) -> str:
    """Return the cookie of a request."""
    header: Any = request.requestHeaders.getRawHeaders(COOKIE)
    return header[0].decode("latin-1").strip() if header else query(uri, "cookie")


def refused(failure: Failure, request: Request, transfers: Transfers) -> None:
    """Answer with the fault; delayed after many wrong cookies."""
    error = failure.value
    if isinstance(error, HeldBack) and request.channel is not None:
        waiting = transfers.held_back(request.channel.peer_of(request).address)
        waiting.addCallback(lambda nothing: _refuse(request, error))
    else:
        _refuse(request, error)


def _refuse(request: Request, error: BaseException | None) -> None:
    fault = fault_of(error if isinstance(error, Exception) else RuntimeError(repr(error)), "a transfer")
    request.answer(STATUSES.get(fault.faultCode, 500), PLAIN, fault.faultString.encode() + b"\n")
