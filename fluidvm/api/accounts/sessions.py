"""Logging in and out, sessions, and reading what changed."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.accounts.login import CODE, Login
from fluidvm.api.listing import page
from fluidvm.auth.audit import LONGEST_STRING
from fluidvm.auth.certificates import stands_for
from fluidvm.auth.permissions import reads_all
from fluidvm.auth.sessions import Session
from fluidvm.model.declare import WORKERS, query
from fluidvm.model.faults import ApiFault, NotFound, TooManyAttempts
from fluidvm.model.kinds import Int, Secret, Serial, Text, filter_of
from fluidvm.model.objects import User
from fluidvm.model.xmlvalue import INT_HIGH, Members, moment

SessionFilter = Annotated[dict[str, Any], filter_of(Session.FIELDS)]
LoginName = Annotated[str, Text("the user's name", longest=1024)]
LoginPassword = Annotated[str, Secret("the user's password", longest=1024)]
KnownSerial = Annotated[int, Serial("a serial that get_changes returned; 0: the current serial, without changes")]
SessionId = Annotated[int, Int("id of a session, from list_sessions")]


@query("int", anonymous=True, confidential=True)
async def authenticate(
    call: Call,
    name: LoginName,
    password: LoginPassword,
    code: Annotated[str, CODE] = "",
) -> int:
    """
    Log in. Returns the cookie, which is the first argument of every other method. The session expires unless ping is called.

    A client whose TLS certificate identifies the user leaves the password empty.
    """
    audit = call.services.audit
    try:
        session = await _log_in(call, name, password, code)
    except TooManyAttempts as fault:
        audit.count("authenticate", call.address, method="authenticate", code=fault.faultCode, error=fault.faultString)
        raise
    except ApiFault as fault:
        audit.note(
            "authenticate",
            name=name[:LONGEST_STRING],
            address=call.address,
            method="authenticate",
            code=fault.faultCode,
            error=fault.faultString,
        )
        raise
    audit.note("authenticate", user=session.user, name=name, address=call.address, method="authenticate")
    return session.cookie


async def _log_in(call: Call, name: str, password: str, code: str) -> Session:
    async with Login(call, name) as login:
        # Without a password, the client's certificate can identify the user.
        known = not password and stands_for(call.certificate, name, call.services.certificate_users)
        right = [known or await login.check_password(password), login.check_code(code)]
        user = call.inventory.named(User, name)
        if not all(right) or user is None or not user.enabled:
            raise login.refuse()
        await login.succeed(user)
    call.inventory.update_untracked("user", user.id, last_login=call.services.resources.wall_clock())
    return call.services.resources.sessions.open(user.id, call.address, call.inventory.log.serial)


@query("boolean")
def logout(call: Call) -> bool:
    """Log out. Uncommitted tasks of the session are discarded; committed tasks continue."""
    call.services.resources.sessions.close(call.session)
    return True


@query("array")
def ping(call: Call) -> list[dict[str, object]]:
    """Keep the session alive, and return what changed since the last ping: structs of type, id and change, oldest first."""
    log, session = call.inventory.log, call.session
    call.services.resources.sessions.touch(session)
    changes = log.since(session.serial, reads_all(call.user), call.user.id)
    session.serial = log.serial
    return changes


@query("struct")
def get_changes(call: Call, since: KnownSerial) -> dict[str, Any]:
    """
    Return what changed after a serial. Unlike ping, it can be repeated if the answer was lost.

    Returns a struct of serial (for the next call; a double if it exceeds 2^31-1), changes (as ping returns them), and reset.
    If reset is true, the server no longer has all changes since the given serial, and the client must read everything again.
    """
    log = call.inventory.log
    serial = log.serial if log.serial <= INT_HIGH else float(log.serial)
    if since == 0 or not log.remembers(since):
        return {"serial": serial, "reset": since != 0, "changes": []}
    return {"serial": serial, "reset": False, "changes": log.since(since, reads_all(call.user), call.user.id)}


@query("struct")
def get_session(call: Call) -> dict[str, Any]:
    """Return the caller's session: id, user, name, role, address, created, last_ping, expires, pending (number of tasks)."""
    session, user = call.session, call.user
    left = call.services.resources.sessions.left(session)
    return {
        "id": session.id,
        "user": user.id,
        "name": user.name,
        "role": user.role,
        "address": session.address,
        "created": moment(session.wall_created),
        "last_ping": moment(session.wall_last_ping),
        "expires": moment(call.services.resources.wall_clock() + left),
        "pending": len(session.pending),
    }


@query("array")
def list_sessions(call: Call, filter: SessionFilter = {}) -> Members:  # noqa: B006
    """List the sessions. Administrators and auditors see all sessions, other users only their own."""
    seen = (session for session in call.services.resources.sessions.all() if _may_see(call, session))
    return page("session", (session.wire() for session in seen), filter, "id")


def _may_see(call: Call, session: Session) -> bool:
    return reads_all(call.user) or session.user == call.user.id


@query("boolean", roles=WORKERS, audited=True)
def close_session(call: Call, session: SessionId) -> bool:
    """End one of the caller's sessions or, as an administrator, any session. Its uncommitted tasks are discarded."""
    sessions = call.services.resources.sessions
    found = next((other for other in sessions.all() if other.id == session and _may_see(call, other)), None)
    if found is None:
        raise NotFound(f"There is no session {session}.")
    sessions.close(found)
    return True
