"""Second factors: time-based one-time passwords, which authenticate takes as its third argument."""

from __future__ import annotations

from typing import Annotated

import pyotp

from fluidvm.access.call import Call
from fluidvm.api.accounts.login import CODE, Login
from fluidvm.auth.logins import second_factor_step
from fluidvm.auth.permissions import administers
from fluidvm.model.declare import query
from fluidvm.model.faults import Conflict, Forbidden, InvalidParams
from fluidvm.model.kinds import Secret, UserId
from fluidvm.model.objects import User
from fluidvm.store.objects import Update

OwnPassword = Annotated[str, Secret("the caller's password", longest=1024)]


@query("struct", audited=True, confidential=True)
async def begin_second_factor(call: Call, password: OwnPassword) -> dict[str, str]:
    """
    Generate the secret of a second factor (TOTP, RFC 6238) for the caller.

    Returns a struct of secret (base32) and uri (otpauth, for a QR code). The second factor is required at login only after
    confirm_second_factor was called with a valid code.
    """
    user = call.user
    if user.second_factor:
        raise Conflict(f"User {user.name} already has a second factor: call remove_second_factor first.")
    async with Login(call, user.name) as login:
        if not await login.check_password(password):
            raise login.refuse()
    call.session.offered_secret = pyotp.random_base32()
    uri = pyotp.TOTP(call.session.offered_secret).provisioning_uri(name=user.name, issuer_name="FluidVM")
    return {"secret": call.session.offered_secret, "uri": uri}


@query("boolean", audited=True)
async def confirm_second_factor(call: Call, code: Annotated[str, CODE]) -> bool:
    """Activate the second factor that begin_second_factor generated: from now on authenticate requires a code."""
    secret = call.session.offered_secret
    if not secret:
        raise Conflict("There is nothing to confirm: call begin_second_factor first.")
    step = second_factor_step(secret, code, call.services.resources.wall_clock(), 0)
    if step is None:
        raise InvalidParams("code: is wrong; check the clock of the device that generates it.")
    call.session.offered_secret = ""
    # The code can be used once more: a user who logs in right afterwards has no other one yet.
    extra = {"totp_secret": secret, "totp_last": step - 1}
    await call.inventory.commit([Update("user", call.user.id, {"second_factor": True}, extra)])
    return True


@query("boolean", audited=True)
async def remove_second_factor(call: Call, user: UserId, code: Annotated[str, CODE] = "") -> bool:
    """
    Remove a user's second factor: authenticate requires only the password again.

    A user who removes their own second factor must give a code. An administrator can remove another user's without a code.
    """
    record = call.inventory.get(User, user)
    own = record.id == call.user.id
    if not own and not administers(call.user):
        raise Forbidden("remove_second_factor: only an administrator may remove another user's second factor.")
    if not record.second_factor:
        raise Conflict(f"User {record.name} has no second factor.")
    if own:
        async with Login(call, record.name) as login:
            if not login.check_code(code):
                raise login.refuse()
    await call.inventory.commit([Update("user", user, {"second_factor": False}, {"totp_secret": "", "totp_last": 0})])
    return True
