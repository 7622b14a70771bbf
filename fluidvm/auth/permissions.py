"""
Permissions: who is allowed to do what to which object, for calls, committed tasks, transfers and consoles.

An admin may do everything. A user may read and change the objects that it owns. An auditor may read everything.
L{Inventory.visible} decides which objects a user can see.
"""

from __future__ import annotations

from collections.abc import Iterable

from fluidvm.auth.sessions import Session, Sessions
from fluidvm.inventory.inventory import Inventory, missing
from fluidvm.model.declare import WORKERS, Method
from fluidvm.model.faults import Forbidden, NotLoggedIn
from fluidvm.model.objects import OBJECT_TYPES, User


def administers(user: User) -> bool:
    """Return whether a user is allowed to do everything."""
    return user.role == "admin"


def reads_all(user: User) -> bool:
    """Return whether a user is allowed to read the objects of all users."""
    return user.role != "user"


def owns(user: User, owner: int | None) -> bool:
    """
    Return whether a user is allowed to change the objects of an owner.

    @param owner: the owner's id; C{None} if the object has no owner, so that only the role decides.
    """
    return owner is None or owner == user.id or administers(user)


def session_user(inventory: Inventory, sessions: Sessions, session: Session) -> User:
    """
    Return the user of a session. If the user was deleted or disabled, end the session.

    @raise NotLoggedIn: the session has ended.
    """
    user = inventory.find(User, session.user)
    if user is not None and user.enabled and sessions.lives(session):
        return user
    sessions.close(session)
    raise NotLoggedIn("You are not logged in: authenticate again.")


def check_role(user: User, roles: tuple[str, ...], what: str) -> None:
    """
    Check that a user's role allows an operation.

    @param roles: the roles that allow it.
    @param what: the operation's name for the fault, such as a method's name.
    @raise Forbidden: the role doesn't allow it.
    """
    if user.role not in roles:
        raise Forbidden(f"{what} is for {' and '.join(roles)}s, not for {user.role}s.")


def check_object(
    inventory: Inventory, user: User, type_name: str, id: int, what: str = "", name: str = "", change: bool = False
) -> None:
    """
    Check that a user is allowed to read an object, or to change it.

    @param what: the operation's name for the fault, such as a method's name.
    @param name: the object's name in the fault; empty for its type and id.
    @param change: whether the operation changes the object.
    @raise NotFound: the object doesn't exist, or the user is not allowed to see it; the fault is the same.
    @raise Forbidden: the user is allowed to see the object, but not to change it.
    """
    entry = inventory.visible(type_name, id, user)
    if entry is None:
        raise missing(type_name, id)
    if change and not owns(user, entry.object.owner):
        raise Forbidden(f"{what}: {name or f'{type_name} {id}'} belongs to another user.")


def check_task(inventory: Inventory, actor: int, method: Method, target: int, claims: Iterable[tuple[str, int]]) -> None:
    """
    Check a committed task again before it runs, because its user or the objects can have changed since the call.

    @param actor: the id of the user who committed it.
    @param claims: type and id of every object that it can change.
    @raise NotFound: one of the objects was deleted, or the user is not allowed to see it any more; the fault is the same.
    @raise Forbidden: the user was deleted or disabled, or is not allowed to run the task any more.
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
    """@raise Forbidden: the user is not allowed to upload or download."""
    check_role(user, WORKERS, "A transfer")


def check_console(inventory: Inventory, user: User, vm: int) -> None:
    """
    Check that a user is allowed to use a VM's console, which accepts input.

    @raise NotFound: the VM doesn't exist, or the user is not allowed to see it.
    @raise Forbidden: the user's role allows only reading.
    """
    check_role(user, WORKERS, "A console")
    check_object(inventory, user, "vm", vm)
