"""Creating, changing, reading and deleting users."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.access.call import Call
from fluidvm.api.accounts.plans import usage
from fluidvm.api.listing import list_objects, show
from fluidvm.auth.logins import check_password
from fluidvm.auth.permissions import administers
from fluidvm.engine.job import Job
from fluidvm.inventory.inventory import WORDS
from fluidvm.inventory.ledger import LIMITS, of_user
from fluidvm.inventory.quota import limits_of
from fluidvm.model.declare import WORKERS, query, task
from fluidvm.model.faults import Conflict
from fluidvm.model.kinds import Bool, Choice, Id, Password, Struct, Text, UserId, filter_of, named
from fluidvm.model.object_fields import wire_fields
from fluidvm.model.objects import ROLES, ResourcePlan, User
from fluidvm.model.xmlvalue import Members, Rendered
from fluidvm.store.objects import Create, Delete, Update

_DETAILS = {"full_name": Text("the person's full name", longest=255), "email": Text("the email address", longest=255)}
_PLAN = Id("the resource plan of the user", type="resource_plan", none="no plan, so no limits")
Role = Choice("the role, which decides what the user may do", choices=ROLES)
UserOptions = Annotated[
    dict[str, Any],
    Struct("further properties of the user", fields={"role": Role, "resource_plan": _PLAN, **_DETAILS}),
]
UserDetails = Annotated[dict[str, Any], Struct("the properties to change; absent ones stay as they are", fields=_DETAILS)]
UserFilter = Annotated[dict[str, Any], filter_of(wire_fields(User))]
UserName = Annotated[str, named("the user's name")]
ADMINISTRATORS = "administrators"
"""Tasks that could remove the last administrator run one at a time."""
Enabled = Annotated[bool, Bool("whether the user may log in")]


def _check_new(call: Call, name: str, password: str, options: dict[str, Any] | None = None) -> None:
    if call.inventory.named(User, name) is not None:
        raise Conflict(f"A user named {name} already exists.")
    check_password(password, name, call.services.logins.least)


@task("user", creates=True, roles=("admin",), precheck=_check_new)
async def create_user(job: Job, name: UserName, password: Password, options: UserOptions = {}) -> None:  # noqa: B006
    """Create a user. By default it has role user and no resource plan."""
    if job.inventory.named(User, name) is not None:
        raise Conflict(f"A user named {name} already exists.")
    user = User(
        id=job.target,
        name=name,
        role=options.get("role", "user"),
        enabled=True,
        resource_plan=_plan(job, options.get("resource_plan", 0)),
        full_name=options.get("full_name", ""),
        email=options.get("email", ""),
        created=job.wall_clock(),
    )
    job.put(Create(user, {"password_hash": password}))


def _plan(job: Job, plan: int) -> int | None:
    """@raise NotFound: there is no such plan."""
    return job.inventory.get(ResourcePlan, plan).id if plan else None


def _keep_an_admin(job: Job, user: User, doing: str) -> None:
    """@raise Conflict: no enabled administrator would be left."""
    enabled = [other for other in job.inventory.all(User) if administers(other) and other.enabled]
    if [other.id for other in enabled] == [user.id]:
        raise Conflict(f"User {user.name} is the last enabled administrator: create another one before {doing}.")


@task("user", roles=("admin",), exclusive=ADMINISTRATORS)
async def delete_user(job: Job, user: UserId) -> None:
    """Delete a user who owns no objects. Its sessions end."""
    record = job.inventory.get(User, user)
    owned = job.inventory.owns(user)
    if owned is not None:
        raise Conflict(
            f"User {record.name} still owns objects, for example {WORDS[owned.TYPE]} {owned.name}: delete them or change "
            "their owner first."
        )
    _keep_an_admin(job, record, "deleting it")
    job.sessions.close_user(user)
    await job.uploads.drop_user(user)
    job.put(Delete("user", user))


def _check_change(call: Call, user: int, password: str) -> None:
    record = call.inventory.find(User, user)  # None: a pending task will create it
    check_password(password, "" if record is None else record.name, call.services.logins.least)


@task("user", roles=ROLES, precheck=_check_change)
async def set_user_password(job: Job, user: UserId, password: Password) -> None:
    """
    Change the caller's password or, as an administrator, any user's.

    The user's sessions end, except the one that committed this task.
    """
    job.inventory.get(User, user)
    job.put(Update("user", user, {}, extra={"password_hash": password}))
    await job.flush()
    job.sessions.close_user(user, job.session)


@task("user", roles=("admin",), exclusive=ADMINISTRATORS)
async def set_user_role(job: Job, user: UserId, role: Annotated[str, Role]) -> None:
    """Change a user's role. The new role applies from the user's next call on."""
    record = job.inventory.get(User, user)
    if role != "admin":
        _keep_an_admin(job, record, "changing its role")
    job.put(Update("user", user, {"role": role}))


@task("user", roles=("admin",))
async def set_user_resource_plan(job: Job, user: UserId, plan: Annotated[int, _PLAN]) -> None:
    """
    Assign another resource plan to a user.

    What exceeds the new plan stays, but the user can't add to it.
    """
    job.inventory.get(User, user)
    job.put(Update("user", user, {"resource_plan": _plan(job, plan)}))


@task("user", roles=("admin",), exclusive=ADMINISTRATORS)
async def set_user_enabled(job: Job, user: UserId, enabled: Enabled) -> None:
    """
    Enable or disable a user.

    When a user is disabled, its sessions end, its tasks that haven't started fail with fault 403, and its VMs keep running.
    """
    record = job.inventory.get(User, user)
    if not enabled:
        _keep_an_admin(job, record, "disabling it")
    job.put(Update("user", user, {"enabled": enabled}))
    if not enabled:
        await job.flush()
        job.sessions.close_user(user)


@task("user", roles=WORKERS)
async def set_user_details(job: Job, user: UserId, details: UserDetails) -> None:
    """Change the caller's full name and email address or, as an administrator, any user's."""
    job.inventory.get(User, user)
    job.put(Update("user", user, details))


@query("struct")
def get_user(call: Call, user: UserId) -> Rendered:
    """Return the caller's user or, as an administrator or auditor, any user."""
    return show(call, "user", user)


@query("array")
def list_users(call: Call, filter: UserFilter = {}) -> Members:  # noqa: B006
    """List the users that the caller may see."""
    return list_objects(call, "user", filter)


@query("struct")
def get_user_usage(call: Call, user: UserId) -> dict[str, Any]:
    """
    Return what a user uses.

    The keys are the limits on totals; each value is a struct of used and, if the user's resource plan has this limit, limit.
    """
    limits = limits_of(call.inventory, user)
    return {limit: usage(call.inventory.ledger.used(of_user(user), limit), limits.get(limit)) for limit in LIMITS}
