"""Users: made, read, given passwords."""

from __future__ import annotations

from typing import Annotated, Any

from fluidvm.api.listing import list_objects, show
from fluidvm.call import Call
from fluidvm.declare import query, task
from fluidvm.engine.job import Job
from fluidvm.faults import Conflict
from fluidvm.kinds import Choice, Password, Struct, Text, UserId, filter_of, named
from fluidvm.objects import ROLES, User
from fluidvm.store.objects import Create, Update
from fluidvm.xmlvalue import Rendered

UserOptions = Annotated[
    dict[str, Any],
    Struct(
        "what else is known of the user",
        fields={
            "role": Choice("what it may do", choices=ROLES),
            "full_name": Text("a person's name", longest=255),
            "email": Text("an address", longest=255),
        },
    ),
]
UserFilter = Annotated[dict[str, Any], filter_of(User.FIELDS)]
UserName = Annotated[str, named("the user's name")]


def _free_name(call: Call, name: str, *rest: object) -> None:
    if call.inventory.named(User, name) is not None:
        raise Conflict(f"There is a user {name} already.")


@task("user", creates=True, roles=("admin",), early=_free_name)
async def create_user(job: Job, name: UserName, password: Password, options: UserOptions = {}) -> None:  # noqa: B006
    """Make a user, with role user unless the options say otherwise."""
    if job.inventory.named(User, name) is not None:
        raise Conflict(f"There is a user {name} already.")
    user = User(
        id=job.target, name=name, role=options.get("role", "user"), enabled=True, full_name=options.get("full_name", ""),
        email=options.get("email", ""), created=job.wall_clock(),
    )  # fmt: skip
    job.put(Create(user, {"password_hash": password}))


@task("user", roles=ROLES)
async def set_user_password(job: Job, user: UserId, password: Password) -> None:
    """Give a user another password: one's own, or as an administrator anyone's. The user's sessions end."""
    job.inventory.get(User, user)
    job.put(Update("user", user, {}, {"password_hash": password}))
    await job.flush()
    job.sessions.close_user(user)


@query("struct")
def get_user(call: Call, user: UserId) -> Rendered:
    """Tell about a user: oneself, or as an administrator or auditor anyone."""
    return show(call, "user", user)


@query("array")
def list_users(call: Call, filter: UserFilter = {}) -> Rendered:  # noqa: B006
    """List the users that the caller may see."""
    return list_objects(call, "user", filter)
