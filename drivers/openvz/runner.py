"""
Running commands on an OpenVZ node: argument vectors in, exit code and output out.

This module contains what all runners share, and the runner for the server's own machine; L{fluidvm.drivers.openvz.ssh}
contains the one for SSH.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from fluidvm.driver import DriverError, DriverHost, Unreachable

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands are: on some distributions, sshd's PATH for commands lacks sbin, where vzctl is."""
STDOUT_LIMIT = 16 * 1024 * 1024
STDERR_LIMIT = 256 * 1024
GRACE = 1.0
"""
Seconds during which output can still come after a command has ended.

C{vzctl destroy} and C{vzctl start} leave processes behind, which can keep the pipe open as long as they live.
"""


ENTER = 'cd / && exec setsid "$@"'
"""The prefix of each command on this machine: a new session, and a working directory that isn't the server's."""


@dataclass(frozen=True)
class Outcome:
    """
    How a command ended.

    @ivar code: its exit code; if a signal ended it, the negated number of the signal.
    """

    code: int
    stdout: str
    stderr: str


class Late(Unreachable):
    """A command didn't end in time, and was killed. The connection to the node still works."""


class Runner(Protocol):
    """Runs commands on a node, also in parallel."""

    where: str
    """The node's name in error messages."""

    def run(self, argv: Sequence[str], timeout: float, stdin: bytes = b"", keep: int = 0) -> Deferred[Outcome]:
        """
        Run a command.

        Cancelling stops the waiting; the command keeps running.

        @param argv: the command and its arguments, without NUL characters.
        @param timeout: seconds after which it is killed.
        @param keep: how many slots for commands it leaves to others, if slots are limited.
        @raise Unreachable: the connection is closed or lost, or the command didn't end in time: its effect isn't known.
        @raise DriverError: it wrote too much output and was killed; or there was no free slot within the time-out.
        """

    def close(self) -> Deferred[None]:
        """Close the connection. Commands in progress fail with L{Unreachable}."""

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call C{callback} with the reason if the connection is lost, but not when it is closed."""


class Collected:
    """
    The state and output of a running command, for all runners.

    @ivar outcome: fires when it is over.
    """

    def __init__(self, host: DriverHost, subject: str, timeout: float, kill: Callable[[], None]) -> None:
        self.outcome: Deferred[Outcome] = Deferred(lambda _: self._settle(None))
        self._host = host
        self._subject = subject
        self._kill = kill
        self._out = bytearray()
        self._err = bytearray()
        self._code: int | None = None
        self._grace: IDelayedCall | None = None
        self._over = False
        self._limit = host.clock.callLater(timeout, self._late, timeout)

    def out(self, data: bytes) -> None:
        """Receive standard output."""
        self._take(self._out, data, STDOUT_LIMIT)

    def err(self, data: bytes) -> None:
        """Receive standard error."""
        self._take(self._err, data, STDERR_LIMIT)

    def _take(self, sink: bytearray, data: bytes, limit: int) -> None:
        if self._over:
            return
        sink += data
        if len(sink) > limit:
            self.fail(DriverError(f"{self._subject} wrote more than {limit // 1024} KiB of output and was killed."))
            self._kill()
        elif self._grace is not None:
            self._grace.reset(GRACE)

    def exited(self, code: int) -> None:
        """Its exit code is known; output may still come."""
        self._code = code
        if not self._over:
            self._grace = self._host.clock.callLater(GRACE, self.ended)

    def ended(self) -> None:
        """No more output comes. Without an exit code the connection was lost."""
        if self._over:
            return
        if self._code is None:
            self.fail(Unreachable(f"{self._subject}: the connection failed before it ended."))
            return
        outcome = Outcome(self._code, self._out.decode(errors="replace"), self._err.decode(errors="replace"))
        self._settle(outcome)

    def fail(self, error: DriverError) -> None:
        """The command has failed."""
        if not self._over:
            self._settle(Failure(error))

    def _late(self, timeout: float) -> None:
        self.fail(Late(f"{self._subject} didn't end within {timeout:g} s and was killed."))
        self._kill()

    def _settle(self, result: Outcome | Failure | None) -> None:
        self._over = True
        for call in (self._limit, self._grace):
            if call is not None and call.active():
                call.cancel()
        if isinstance(result, Failure):
            self.outcome.errback(result)
        elif result is not None:
            self.outcome.callback(result)


def environment(bin_dir: str) -> list[str]:
    """
    The prefix of every command: C{env}, which sets the locale and PATH.

    @param bin_dir: searched first; empty: none.
    """
    return ["env", "LC_ALL=C", f"PATH={bin_dir}:{SYSTEM_PATH}" if bin_dir else f"PATH={SYSTEM_PATH}"]


class _Local(ProcessProtocol):
    def __init__(self, host: DriverHost, subject: str, timeout: float, stdin: bytes, gone: Callable[[Any], None]) -> None:
        self.collected = Collected(host, subject, timeout, self.kill)
        self._stdin = stdin
        self._gone = gone
        self._pid: int | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self._pid = self.transport.pid
        if self._stdin:
            self.transport.write(self._stdin)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.collected.out(data)

    def errReceived(self, data: bytes) -> None:
        self.collected.err(data)

    def processExited(self, reason: Failure) -> None:
        self._pid = None
        value: Any = reason.value
        self.collected.exited(-value.signal if getattr(value, "signal", None) else value.exitCode or 0)
        self.collected.outcome.addBoth(self._let_go)

    def _let_go(self, result: Any) -> Any:
        # Processes that it left behind may keep the pipes open.
        if self.transport is not None:
            self.transport.loseConnection()
        return result

    def processEnded(self, reason: Failure) -> None:
        self._gone(self)
        self.collected.ended()

    def kill(self) -> None:
        if self._pid is not None:
            # vzctl ignores SIGTERM while it holds its lock; its scripts are in the same process group.
            with suppress(ProcessLookupError, ProcessExitedAlready, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)


class LocalRunner:
    """
    Runs commands on the server's own machine, each in its own session.

    @param bin_dir: the directory to search for commands first; empty: none.
    """

    where = "this machine"

    def __init__(self, host: DriverHost, bin_dir: str) -> None:
        self._host = host
        words = ("HOME=/root", *environment(bin_dir)[1:])
        self._environment = dict(word.encode().split(b"=", 1) for word in words)
        self._running: set[Any] = set()
        self._closed = False

    def run(self, argv: Sequence[str], timeout: float, stdin: bytes = b"", keep: int = 0) -> Deferred[Outcome]:
        async def run() -> Outcome:
            if self._closed:
                raise Unreachable("The connection to this machine's OpenVZ is closed.")
            protocol = _Local(self._host, f"{argv[0]} on this machine", timeout, stdin, self._running.discard)
            self._running.add(protocol)
            # No working directory is given: Twisted would then use fork() instead of posix_spawn(). That copies the server's
            # memory map, which blocks the reactor for milliseconds at each command, and longer in a large server.
            command = [word.encode() for word in ("/bin/sh", "-c", ENTER, "sh", *argv)]
            self._host.reactor.spawnProcess(protocol, b"/bin/sh", command, env=self._environment)
            return await protocol.collected.outcome

        return Deferred.fromCoroutine(run())

    def close(self) -> Deferred[None]:
        self._closed = True
        for protocol in list(self._running):
            protocol.collected.fail(Unreachable("The connection to this machine's OpenVZ was closed."))
            protocol.transport.loseConnection()
        return succeed(None)

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """This machine can't be lost."""
