"""Whether a committed task may still begin: its user or the objects may have changed since the call."""

from __future__ import annotations

from collections.abc import Iterable

from fluidvm.declare import Method
from fluidvm.faults import Forbidden
from fluidvm.inventory import Inventory, missing
from fluidvm.objects import OBJECT_TYPES, User


def check(inventory: Inventory, actor: int, method: Method, target: int, claims: Iterable[tuple[str, int]]) -> None:
    """
    Check a task as if it were called now.

    @param actor: the id of the user who committed it.
    @param claims: type and id of every object that it may change.
    @raise NotFound: one of the objects is gone, or isn't the user's any more: no difference.
    @raise Forbidden: the user is gone or disabled, or its role doesn't allow the task any more.
    """
    user = inventory.find(User, actor)
    if user is None:
        raise Forbidden(f"{method.name}: the user who committed it is gone.")
    if not user.enabled:
        raise Forbidden(f"{method.name}: user {user.name}, who committed it, is disabled.")
    if user.role not in method.roles:
        raise Forbidden(f"{method.name} is for {' and '.join(method.roles)}s, not for {user.role}s.")
    for type_name, id in sorted(claims):
        if type_name not in OBJECT_TYPES or (method.creates and (type_name, id) == (method.target, target)):
            continue
        entry = inventory.visible(type_name, id, user)
        if entry is None:
            raise missing(type_name, id)
        owner = entry.object.owner
        if owner is not None and owner != user.id and user.role != "admin":
            raise Forbidden(f"{method.name}: {type_name} {id} is another user's.")
