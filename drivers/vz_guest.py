"""What is done inside a running container: commands, passwords, keys."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence

from fluidvm.driver import DomainState, DriverError, WrongState

from .vz_node import Container, VzNode, verb
from .vz_runner import Outcome

KEY_SCRIPT = """\
set -e
umask 077
mkdir -p "${{HOME:-/root}}/.ssh"
cd "${{HOME:-/root}}/.ssh"
touch authorized_keys
while read -r line; do [ "$line" = {key} ] && exit 0; done <authorized_keys
printf '%s\\n' {key} >>authorized_keys
"""


def one_line(what: str, text: str) -> str:
    """@raise DriverError: it is more than a line, or nothing."""
    if not text or not text.isprintable():
        raise DriverError(f"{what}: it has to be one line without control characters.")
    return text


class VzGuest(VzNode):
    """By C{vzctl exec2}: no lock is taken. Secrets go by standard input, never by a command line."""

    async def _awake(self, uuid: str) -> Container:
        there = await self._container(uuid)
        if there.state is not DomainState.RUNNING:
            raise WrongState(f"Container {there.info.name} is {there.state}: only in a running one can commands be run.")
        return there

    @verb
    async def run_in_guest(self, uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> Outcome:
        """
        Run a command in a running container.

        After success it has ended, whatever its exit code. After failure it may or may not have run. A repetition runs it
        again.

        @param argv: words, which reach the command as they are.
        @param timeout: seconds that it may take; then the connection counts as lost.
        @raise NoSuchThing: no such domain.
        @raise WrongState: it doesn't run.
        """
        there = await self._awake(uuid)
        # vzctl joins words by blanks, and the guest's shell reads the line.
        return await self._run(["vzctl", "exec2", there.ctid, shlex.join(argv)], timeout, stdin)

    @verb
    async def set_password(self, uuid: str, user: str, password: str) -> None:
        """
        Give a user in a running container another password, by the guest's C{chpasswd}.

        After success it counts. After failure the old one does. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it doesn't run.
        @raise DriverError: the guest refuses; or user or password are no single line.
        """
        there = await self._awake(uuid)
        if ":" in one_line("A user's name", user):
            raise DriverError("A user's name holds no colon.")
        mark = f"END-{secrets.token_hex(8)}"
        script = f"chpasswd <<'{mark}'\n{user}:{one_line('A password', password)}\n{mark}\n"
        await self._script(there, "password", script)

    @verb
    async def add_ssh_key(self, uuid: str, key: str) -> None:
        """
        Let an SSH key log in as root of a running container.

        After success it is in C{authorized_keys}. After failure it isn't. A repetition changes nothing.

        @raise NoSuchThing: no such domain.
        @raise WrongState: it doesn't run.
        """
        there = await self._awake(uuid)
        await self._script(there, "SSH key", KEY_SCRIPT.format(key=shlex.quote(one_line("An SSH key", key))))

    async def _script(self, there: Container, what: str, script: str) -> None:
        outcome = await self._run(["vzctl", "exec2", there.ctid, "-"], stdin=script.encode())
        if outcome.code != 0:
            # What the guest said isn't quoted: it may repeat the secret.
            raise DriverError(f"Container {there.info.name}: the guest refused the {what} (exit code {outcome.code}).")
