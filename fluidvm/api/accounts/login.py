"""One login attempt: admitting, checking and counting it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import pyotp

from fluidvm.access.call import Call
from fluidvm.auth.logins import second_factor_step
from fluidvm.model.faults import BadCredentials
from fluidvm.model.kinds import Secret
from fluidvm.model.objects import User
from fluidvm.store import users as stored

CODE = Secret("the code of the second factor; empty if the user has none", longest=16)
_NOBODY = pyotp.random_base32()


class Login:
    """
    An asynchronous context manager for one attempt, which counts as in progress within the context.

    @raise TooManyAttempts: on creation: the attempt comes too soon after failed ones.
    """

    def __init__(self, call: Call, name: str) -> None:
        self._logins = call.services.logins
        self._database = call.services.database
        self._now = call.services.resources.wall_clock
        self._step = 0
        self._outdated = ""
        user = call.inventory.named(User, name)
        self._attempt = self._logins.begin(call.address, name, None if user is None else user.id)

    async def __aenter__(self) -> Self:
        try:
            self._credentials = await self._database.run(stored.credentials, self._attempt.name)
        except BaseException:
            self._logins.end(self._attempt)
            raise
        return self

    async def __aexit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._logins.end(self._attempt)

    async def check_password(self, password: str) -> bool:
        """Tell whether the password is correct. @raise TooManyAttempts: another attempt failed meanwhile."""
        found = self._credentials
        right = await self._logins.verify(None if found is None else found.password_hash, password)
        # Checked again: of many simultaneous attempts, those after the first failures must learn nothing.
        self._logins.admit(self._attempt)
        self._outdated = password if right and found is not None and self._logins.outdated(found.password_hash) else ""
        return right

    def check_code(self, code: str) -> bool:
        """Tell whether the code of the second factor is correct, or none is required."""
        found = self._credentials
        wanted = found is not None and found.totp_secret
        last = found.totp_last if found is not None else 0
        # Always computed, so that the duration reveals nothing.
        step = second_factor_step(wanted or _NOBODY, code, self._now(), last)
        self._step = step or 0
        return not wanted or step is not None

    def refuse(self) -> BadCredentials:
        """Count a failed attempt. Returns the fault, which is the same for every cause."""
        self._logins.failed(self._attempt)
        return BadCredentials("Wrong user name, password or code.")

    async def succeed(self, user: User) -> None:
        """
        Count a successful attempt.

        @raise BadCredentials: the stored credentials have changed since the check.
        """
        assert self._credentials is not None
        rehashed = await self._logins.hash(self._outdated) if self._outdated else ""
        step = self._step if self._credentials.totp_secret else 0
        done = await self._database.run(
            stored.logged_in, user.id, self._now(), self._attempt.network, self._credentials, step, rehashed
        )
        if not done:
            raise self.refuse()
        self._logins.succeeded(self._attempt, user.id)
