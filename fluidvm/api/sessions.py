"""Logging in and out, and hearing what changed."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.call import Call
from fluidvm.declare import query
from fluidvm.faults import BadCredentials
from fluidvm.kinds import Secret, Serial, Text
from fluidvm.objects import User
from fluidvm.store import users as stored
from fluidvm.xmlvalue import INT_HIGH, moment


@query("int", anonymous=True)
async def authenticate(
    call: Call,
    name: Annotated[str, Text("a user's name", longest=1024)],
    password: Annotated[str, Secret("its password", longest=1024)],
) -> int:
    """Log in. Returns the cookie that every other method takes first; it ends when ping stays away."""
    logins, inventory = call.services.logins, call.inventory
    logins.admit(call.address, name)
    hashed = await call.services.database.run(stored.password_hash, name)
    right = await logins.verify(hashed, password)
    # Again: of many tries at once, those that come after the first wrong ones must learn nothing.
    logins.admit(call.address, name)
    user = inventory.named(User, name)
    if not right or user is None or not user.enabled:
        logins.failed(call.address, name)
        raise BadCredentials("Wrong user name or password.")
    logins.succeeded(call.address, name)
    now = call.services.resources.wall_clock()
    await call.services.database.run(stored.logged_in, user.id, now)
    inventory.amend("user", user.id, last_login=now)
    return call.services.resources.sessions.open(user.id, call.address, inventory.log.serial).cookie


@query("boolean")
def logout(call: Call) -> bool:
    """Log out. The session's uncommitted tasks are dropped; committed work goes on."""
    call.services.resources.sessions.close(call.session)
    return True


@query("array")
def ping(call: Call) -> list[dict[str, object]]:
    """Stay logged in, and learn what changed since the last ping: structs of type, id and change, oldest first."""
    log, session = call.inventory.log, call.session
    call.services.resources.sessions.touch(session)
    changes = log.since(session.serial, call.user.role != "user", call.user.id)
    session.serial = log.serial
    return changes


@query("struct")
def get_changes(call: Call, since: Annotated[int, Serial("a serial that get_changes returned; 0: now")]) -> dict[str, Any]:
    """
    Learn what changed after a serial: the form of ping for clients that may lose an answer.

    Returns serial (for the next call; a double once it is over 2^31-1), changes, and reset: true means that the server
    doesn't remember so far back, so that everything must be read anew.
    """
    log = call.inventory.log
    serial = log.serial if log.serial <= INT_HIGH else float(log.serial)
    if since == 0 or not log.remembers(since):
        return {"serial": serial, "reset": since != 0, "changes": []}
    return {"serial": serial, "reset": False, "changes": log.since(since, call.user.role != "user", call.user.id)}


@query("struct")
def get_session(call: Call) -> dict[str, Any]:
    """Tell about the caller's own session: id, user, name, role, address, created, last_ping, expires, pending."""
    session, user = call.session, call.user
    left = session.expires - call.services.resources.clock.seconds()
    return {
        "id": session.id, "user": user.id, "name": user.name, "role": user.role, "address": session.address,
        "created": moment(session.wall_created), "last_ping": moment(session.wall_last_ping),
        "expires": moment(call.services.resources.wall_clock() + left), "pending": len(session.pending),
    }  # fmt: skip
