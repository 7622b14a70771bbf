"""Every fault a client can get: one class per code, in the words of the wire contract."""

from __future__ import annotations

from typing import ClassVar
from xmlrpc.client import Fault


def sentence(text: str) -> str:
    """Words that somebody else has chosen, with exactly one full stop at their end."""
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
    """The body is no well-formed XML."""

    code = -32700


class InvalidRequest(ApiFault):
    """The body is well-formed, but no XML-RPC call."""

    code = -32600


class NoSuchMethod(ApiFault):
    """There is no method of this name."""

    code = -32601


class InvalidParams(ApiFault):
    """Wrong number or type of arguments, or a value out of its range; names the argument."""

    code = -32602


class InternalError(ApiFault):
    """A bug; carries an incident id that the log has too."""

    code = -32603


class NotLoggedIn(ApiFault):
    """The cookie is unknown, expired or from another address."""

    code = 401


class BadCredentials(ApiFault):
    """Wrong user or password, or the user is disabled."""

    code = 402


class Forbidden(ApiFault):
    """The role or ownership doesn't allow it."""

    code = 403


class NotFound(ApiFault):
    """No such object that this user may see."""

    code = 404


class Conflict(ApiFault):
    """The object's state doesn't allow it."""

    code = 409


class TooLarge(ApiFault):
    """The request or its answer is over the size limit, or too many tasks are pending."""

    code = 413


class TooManyAttempts(ApiFault):
    """Throttled; the text says for how long."""

    code = 429


class Unsupported(ApiFault):
    """The node's hypervisor can't do it."""

    code = 501


class Unavailable(ApiFault):
    """The node or the store can't be reached, or the hypervisor failed."""

    code = 503


class QuotaExceeded(ApiFault):
    """Over a limit of the resource plan; names the limit, what is used and what was asked."""

    code = 507


FAULTS: dict[int, type[ApiFault]] = {cls.code: cls for cls in ApiFault.__subclasses__()}
