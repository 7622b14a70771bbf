"""Commands, passwords and SSH keys in running containers."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence

from zope.interface import implementer

from fluidvm.driver import DomainState, DriverError, GuestOutput, IGuest, Unreachable, WrongState
from fluidvm.drivers.guest_lines import one_line
from fluidvm.drivers.openvz.node import LASTING, READ, Container, VzNode, verb
from fluidvm.drivers.openvz.runner import Late, Outcome

# Where sshd looks. vzctl's HOME is always /, whatever root's home is.
KEY_SCRIPT = """\
set -e
umask 077
home=
while IFS=: read -r _ _ uid _ _ dir _ || [ -n "$uid" ]; do
    if [ "$uid" = 0 ]; then home=$dir; break; fi
done </etc/passwd
[ -n "$home" ]
mkdir -p "$home/.ssh"
cd "$home/.ssh"
touch authorized_keys
while read -r line || [ -n "$line" ]; do [ "$line" = {key} ] && exit 0; done <authorized_keys
if [ -n "$(tail -c 1 authorized_keys)" ]; then echo >>authorized_keys; fi
printf '%s\\n' {key} >>authorized_keys
"""


@implementer(IGuest)
class VzGuest(VzNode):
    """Uses C{vzctl exec2}, which takes no lock. Secrets are passed on standard input, never on a command line."""

    async def _awake(self, uuid: str) -> Container:
        there = await self._container(uuid)
        if there.state is not DomainState.RUNNING:
            raise WrongState(
                f"Container {there.info.name} is {there.state}: commands can be run in it only while it is running."
            )
        return there

    async def _inside(self, there: Container, line: str, timeout: float, stdin: bytes) -> Outcome:
        """
        Run a script in a guest. A time-out there says nothing about the node.

        @raise DriverError: it didn't end in time. It may still be running in the guest.
        """
        self._check_open()
        try:
            # Quiet, or vzctl's messages would be mixed with the command's output. A failure is the guest's own.
            return await self._runner.run(["vzctl", "--quiet", "exec2", there.ctid, line], timeout, stdin, LASTING)
        except Late:
            raise DriverError(f"Container {there.info.name}: the command didn't end within {timeout:g} s.") from None
        except Unreachable as error:
            self._lose(str(error))
            raise

    @verb
    async def run_in_guest(self, uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> GuestOutput:
        there = await self._awake(uuid)
        # vzctl joins the arguments with spaces, and the guest's shell parses the result.
        outcome = await self._inside(there, shlex.join(argv), timeout, stdin)
        return GuestOutput(outcome.code, outcome.stdout, outcome.stderr)

    @verb
    async def set_password(self, uuid: str, user: str, password: str) -> None:
        there = await self._awake(uuid)
        if ":" in one_line("A user's name", user):
            raise DriverError("A user's name must not contain a colon.")
        mark = f"END-{secrets.token_hex(8)}"
        script = f"chpasswd <<'{mark}'\n{user}:{one_line('A password', password)}\n{mark}\n"
        await self._script(there, "password", script)

    @verb
    async def add_ssh_key(self, uuid: str, key: str) -> None:
        there = await self._awake(uuid)
        await self._script(there, "SSH key", KEY_SCRIPT.format(key=shlex.quote(one_line("An SSH key", key))))

    async def _script(self, there: Container, what: str, script: str) -> None:
        outcome = await self._inside(there, "-", READ, script.encode())
        if outcome.code != 0:
            # The guest's message isn't quoted: it may contain the secret.
            raise DriverError(f"Container {there.info.name}: the guest refused the {what} (exit code {outcome.code}).")
