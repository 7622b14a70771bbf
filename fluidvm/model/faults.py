"""Every fault that a client can get: one class for each code of the protocol."""

from __future__ import annotations

from typing import ClassVar
from xmlrpc.client import Fault


def sentence(text: str) -> str:
    """Make text from elsewhere, such as a driver's error, end with exactly one full stop."""
    return f"{text.rstrip('. ')}." if text.strip(". ") else ""


class ApiFault(Fault):
    """
    A documented fault.

    @ivar code: the number on the wire.
    @ivar faultString: one sentence that names the object and says what to do.
    """

    code: ClassVar[int]

    def __init__(self, text: str) -> None:
        super().__init__(self.code, text)

    def __str__(self) -> str:
        return self.faultString


class ParseError(ApiFault):
    """The body is not well-formed XML."""

    code = -32700


class InvalidRequest(ApiFault):
    """The body is well-formed XML, but not an XML-RPC call."""

    code = -32600


class NoSuchMethod(ApiFault):
    """There is no method of this name."""

    code = -32601


class InvalidParams(ApiFault):
    """Wrong number or type of arguments, or a value out of range; the fault names the argument."""

    code = -32602


class InternalError(ApiFault):
    """A bug; the fault has an incident id, which is also in the log."""

    code = -32603


class NotLoggedIn(ApiFault):
    """The cookie is unknown or expired, or was issued to another address."""

    code = 401


class BadCredentials(ApiFault):
    """Wrong user or password, or the user is disabled."""

    code = 402


class Forbidden(ApiFault):
    """The user's role doesn't allow it, or the object belongs to another user."""

    code = 403


class NotFound(ApiFault):
    """The object doesn't exist, or the user is not allowed to see it."""

    code = 404


class Conflict(ApiFault):
    """The object's state doesn't allow it."""

    code = 409


class TooLarge(ApiFault):
    """The request or its answer exceeds the size limit, or too many tasks are pending."""

    code = 413


class TooManyAttempts(ApiFault):
    """The client is throttled; the fault says for how long."""

    code = 429


class Unsupported(ApiFault):
    """The node's hypervisor doesn't support it."""

    code = 501


class Unavailable(ApiFault):
    """The node or the store can't be reached, or the hypervisor failed."""

    code = 503


class QuotaExceeded(ApiFault):
    """A limit of the resource plan is exceeded; the fault names the limit, the amount in use and the amount requested."""

    code = 507


FAULTS: dict[int, type[ApiFault]] = {cls.code: cls for cls in ApiFault.__subclasses__()}
