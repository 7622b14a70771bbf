"""
Who may do what to which object: decided here, for calls, committed tasks, transfers and consoles alike.

An admin may do everything, a user what it owns, an auditor reads everything. Which objects a user sees is the inventory's to
say (L{Inventory.visible}).
"""

from __future__ import annotations

from collections.abc import Iterable

from fluidvm.auth.sessions import Session, Sessions
from fluidvm.inventory.inventory import Inventory, missing
from fluidvm.model.declare import WORKERS, Method
from fluidvm.model.faults import Forbidden, NotLoggedIn
from fluidvm.model.objects import OBJECT_TYPES, User


def administers(user: User) -> bool:
    """Tell whether a user may do everything."""
    return user.role == "admin"


def reads_all(user: User) -> bool:
    """Tell whether a user reads everybody's objects."""
    return user.role != "user"


def owns(user: User, owner: int | None) -> bool:
    """
    Tell whether a user may change what has a certain owner.

    @param owner: the owner's id; C{None}: the object has none, so that the role alone decides.
    """
    return owner is None or owner == user.id or administers(user)


def session_user(inventory: Inventory, sessions: Sessions, session: Session) -> User:
    """
    Give the user of a session. A session whose user is gone or disabled ends here.

    @raise NotLoggedIn: the session has ended.
    """
    user = inventory.find(User, session.user)
    if user is not None and user.enabled and sessions.lives(session):
        return user
    sessions.close(session)
    raise NotLoggedIn("You are not logged in: authenticate again.")


def check_role(user: User, roles: tuple[str, ...], what: str) -> None:
    """
    Check that a user's role may do something.

    @param roles: those that may.
    @param what: what it is, for the fault: a method's name, say.
    @raise Forbidden: the role may not.
    """
    if user.role not in roles:
        raise Forbidden(f"{what} is for {' and '.join(roles)}s, not for {user.role}s.")


def check_object(
    inventory: Inventory, user: User, type_name: str, id: int, what: str = "", name: str = "", change: bool = False
) -> None:
    """
    Check that a user may read an object, or change it.

    @param what: what is done to it, for the fault: a method's name, say.
    @param name: what the caller calls it; empty: its type and id.
    @raise NotFound: it isn't there, or the user may not see it: no difference.
    @raise Forbidden: the user may see it, but not change it.
    """
    entry = inventory.visible(type_name, id, user)
    if entry is None:
        raise missing(type_name, id)
    if change and not owns(user, entry.object.owner):
        raise Forbidden(f"{what}: {name or f'{type_name} {id}'} belongs to another user.")


def check_task(inventory: Inventory, actor: int, method: Method, target: int, claims: Iterable[tuple[str, int]]) -> None:
    """
    Check a committed task as if it were called now: its user or the objects may have changed since the call.

    @param actor: the id of the user who committed it.
    @param claims: type and id of every object that it may change.
    @raise NotFound: one of the objects is gone, or isn't the user's any more: no difference.
    @raise Forbidden: the user is gone or disabled, or its role doesn't allow the task any more.
    """
    user = inventory.find(User, actor)
    if user is None:
        raise Forbidden(f"{method.name}: the user who committed this task was deleted.")
    if not user.enabled:
        raise Forbidden(f"{method.name}: user {user.name}, who committed this task, is disabled.")
    check_role(user, method.roles, method.name)
    for type_name, id in sorted(claims):
        if type_name not in OBJECT_TYPES or (method.creates and (type_name, id) == (method.target, target)):
            continue
        check_object(inventory, user, type_name, id, method.name, change=True)


def check_transfer(user: User) -> None:
    """@raise Forbidden: the user may not send or fetch bytes."""
    check_role(user, WORKERS, "A transfer")


def check_console(inventory: Inventory, user: User, vm: int) -> None:
    """
    Check that a user may use a VM's console, in which one can type.

    @raise NotFound: there is no such VM for the user.
    @raise Forbidden: the user only reads.
    """
    check_role(user, WORKERS, "A console")
    check_object(inventory, user, "vm", vm)
