"""
Commands in guests through QEMU's guest agent and libvirt.

The agent's commands: U{https://www.qemu.org/docs/master/interop/qemu-ga-ref.html}. The agent is a program of the
guest, and not trusted: a late, too long or invalid answer fails the verb, but says nothing about the host.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import libvirt
import libvirt_qemu
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError
from zope.interface import implementer

from fluidvm.driver import DomainState, DriverError, GuestOutput, IGuest, NoSuchThing, Unreachable, Unsupported, WrongState
from fluidvm.drivers.guest_lines import one_line
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domains import LibvirtDomains
from fluidvm.drivers.libvirt.errors import AGENT_SILENT, code_of
from fluidvm.drivers.libvirt.side_connection import SideConnection

T = TypeVar("T")

AGENT_SECONDS = 10
"""Time-out in seconds for an agent's answer, and also for its reaction before that."""

AT_ONCE = 2
"""
Maximum number of calls to agents at a time. Each call that hangs uses one of the five requests that libvirtd serves per
client (C{max_client_requests} in its libvirtd.conf).
"""

QUEUE_SECONDS = 10.0
"""Seconds that a call waits for its turn: the delays of hanging agents must stay below the time-out for a hanging host."""

MOST_OUTPUT = 256 * 1024
"""
Maximum size in bytes of a command's output, and of its errors; the rest is dropped.

libvirt 9 accepts answers of 4 MiB; after one of more than 10 MiB it closes its connection to the agent until the guest is
restarted. The agent itself sends up to 16 MiB of each, in base64.
"""

MOST_INPUT = 64 * 1024
"""Maximum standard input of a command in bytes: an agent in an emulated guest took more than ten seconds for a megabyte."""

MOST_WORDS = 500
"""Maximum length of an agent's error message in characters; libvirt accepts 4 MiB."""

LOOKS = (0.05, 0.5)
"""Polling interval in seconds for a command's end: the first one and the longest one."""

_SCRIPT = """\
most=$1; shift
exec 3>&1 4>&2 2>/dev/null
keep() { head -c "$most"; cat >/dev/null; }
code=$({ { { (exec "$@" 2>&6 3>&- 4>&- 5>&- 6>&-); echo $? >&5; } | keep >&3 5>&- 6>&-; } 6>&1 | keep >&4 5>&-; } 5>&1)
exit "${code:-125}"
"""
"""
Runs all arguments but the first as a command, and cuts its output and errors in the guest. It uses C{exec}, so that the
shell runs the program and not its own builtin of that name.
"""

_KILL = 'kill -KILL -- "-$1"'
_SIGNALS = range(129, 129 + 64)
_FAULTS: dict[int, type[DriverError]] = {
    **dict.fromkeys(AGENT_SILENT, WrongState),
    libvirt.VIR_ERR_NO_DOMAIN: NoSuchThing,
    libvirt.VIR_ERR_OPERATION_INVALID: WrongState,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: WrongState,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Unsupported,
}


@implementer(IGuest)
class LibvirtGuest(LibvirtDomains):
    """A host whose domains have a channel to QEMU's guest agent. Commands need sh, setsid and head in the guest."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._agents = DeferredSemaphore(AT_ONCE)
        # With libvirt 9, other calls on the same connection can also be blocked by an agent's answer.
        self._to_agents = SideConnection(self._uri, self._log_in, self._host, "guest agents", AT_ONCE)

    @verb
    async def close(self) -> None:
        await super().close()
        # Not awaited: it may wait for an agent.
        self._to_agents.end()

    @verb
    async def run_in_guest(self, uuid: str, argv: Sequence[str], stdin: bytes, timeout: float) -> GuestOutput:
        subject = f"command in domain {uuid}"
        if len(stdin) > MOST_INPUT:
            raise DriverError(
                f"QEMU's guest agent accepts at most {MOST_INPUT // 1024} KiB of standard input for a command."
            )
        # A new session is a process group, which can be killed as a whole.
        words = ["setsid", "sh", "-c", _SCRIPT, "sh", str(MOST_OUTPUT), *argv]
        began = self._seconds()
        number = await self._execute(subject, uuid, words, stdin)
        try:
            return await self._ended(subject, uuid, number, began + timeout)
        except CancelledError:
            # Not awaited, because a cancelled coroutine should end.
            killing = Deferred.fromCoroutine(self._kill(subject, uuid, number))
            killing.addErrback(lambda failure: failure.trap(DriverError))
            raise
        except _Late:
            what = "was killed"
            try:
                await self._kill(subject, uuid, number)
            except DriverError:
                what = "may still be running"
            raise DriverError(f"{subject}: the command didn't end within {timeout:g} s, and {what}.") from None

    async def _execute(self, subject: str, uuid: str, words: Sequence[str], stdin: bytes = b"") -> int:
        arguments = {"path": words[0], "arg": list(words[1:]), "capture-output": True}
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        answer = await self._agent(subject, uuid, lambda domain: _do_ask(domain, "guest-exec", arguments))
        return _whole(answer, "pid")

    async def _ended(self, subject: str, uuid: str, number: int, deadline: float) -> GuestOutput:
        pause, longest = LOOKS
        while True:
            answer = await self._agent(subject, uuid, lambda domain: _do_ask(domain, "guest-exec-status", {"pid": number}))
            if answer.get("exited") is True:
                return _output(answer)
            if self._seconds() >= deadline:
                raise _Late
            await self._wait(max(0.0, min(pause, deadline - self._seconds())))
            pause = min(2 * pause, longest)

    async def _kill(self, subject: str, uuid: str, number: int) -> None:
        await self._execute(f"end of the {subject}", uuid, ["sh", "-c", _KILL, "sh", str(number)])

    @verb
    async def set_password(self, uuid: str, user: str, password: str) -> None:
        one_line("A user's name", user)
        one_line("A password", password)

        def put(domain: Any) -> None:
            try:
                domain.setUserPassword(user, password, 0)
            except libvirt.libvirtError as error:
                if code_of(error) in _FAULTS or domain.connect().isAlive() != 1:
                    raise
                # The guest's message isn't quoted: it may contain the secret.
                raise DriverError(f"Domain {domain.name()}: the guest refused the password.") from None

        await self._agent(f"password in domain {uuid}", uuid, put)

    @verb
    async def add_ssh_key(self, uuid: str, key: str) -> None:
        one_line("An SSH key", key)
        flags = libvirt.VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_APPEND
        await self._agent(
            f"SSH key in domain {uuid}", uuid, lambda domain: domain.authorizedSSHKeysSet("root", [key], flags)
        )

    async def _agent(self, subject: str, uuid: str, ask: Callable[[Any], T]) -> T:
        """
        Call a domain's agent, in a thread that can block.

        @param ask: is called with the domain.
        @raise DriverError: the agent fails, isn't running, or doesn't answer in time.
        """
        return await self._call_in(self._in_turn, subject, self._do_agent, subject, uuid, ask)

    @verb
    async def _in_turn(self, function: Callable[..., T], *args: Any) -> T:
        try:
            await self._agents.acquire().addTimeout(QUEUE_SECONDS, self._host.clock)
        except TimeoutError:
            raise DriverError("Too many calls to this host's guest agents are pending; try again later.") from None

        def call() -> T:
            try:
                return function(*args)
            finally:
                # The turn ends with the call, which continues even if nobody waits for it anymore.
                self._host.call_in_reactor(self._agents.release)

        return await self._to_agents.run(call)

    def _do_agent(self, subject: str, uuid: str, ask: Callable[[Any], T]) -> T:
        domain = self._do_find(uuid)
        state = self._do_state(domain)
        if state is not DomainState.RUNNING or not domain.isActive():
            raise WrongState(f"Domain {domain.name()} is {state}; its guest can be reached only while it runs.")
        connection = self._to_agents.do_connection()
        try:
            domain = connection.lookupByUUIDString(uuid)
            # By default libvirt waits forever for answers to its own calls.
            domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
            return ask(domain)
        except libvirt.libvirtError as error:
            # The text may come from the guest's agent, which isn't trusted.
            said = " ".join(str(error.get_error_message() or error)[:MOST_WORDS].split())
            words = f"{subject}: {said}".rstrip(". ") + "."
            if not self._alive():
                raise Unreachable(words) from None
            if code_of(error) in AGENT_SILENT:
                words = f"{words.rstrip('.')}; QEMU's guest agent must be running in it."
            # Error codes that a guest can cause (VIR_ERR_RPC for a too long answer) say nothing about the host.
            raise _FAULTS.get(code_of(error), DriverError)(words) from None


class _Late(Exception):
    """A command hasn't ended in time."""


def _do_ask(domain: Any, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    said = libvirt_qemu.qemuAgentCommand(domain, json.dumps({"execute": command, "arguments": arguments}), AGENT_SECONDS, 0)
    try:
        answer = json.loads(said)["return"]
    except (ValueError, TypeError, KeyError, RecursionError):  # RecursionError: deeply nested arrays
        answer = None
    if not isinstance(answer, dict):
        raise DriverError(f"Domain {domain.name()}: its guest agent returned an invalid answer to {command}.")
    return answer


def _whole(answer: dict[str, Any], name: str) -> int:
    number = answer.get(name)
    if type(number) is not int or not -(2**31) < number < 2**31:
        raise DriverError(f"A guest agent's answer has no valid {name}.")
    return number


def _text(answer: dict[str, Any], name: str) -> str:
    try:
        return base64.b64decode(answer.get(name, ""))[:MOST_OUTPUT].decode(errors="replace")
    except (ValueError, TypeError):
        raise DriverError(f"A guest agent's answer has an invalid {name}.") from None


def _output(answer: dict[str, Any]) -> GuestOutput:
    """Read how a command ended; a shell reports a signal as an exit code above 128."""
    code = -_whole(answer, "signal") if "signal" in answer else _whole(answer, "exitcode")
    if code in _SIGNALS:
        code = 128 - code
    return GuestOutput(code, _text(answer, "out-data"), _text(answer, "err-data"))
