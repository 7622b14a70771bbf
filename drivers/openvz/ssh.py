"""
Running commands on an OpenVZ node over SSH: one connection, on which each command has a channel.

The remote shell gets one string, made by C{shlex.join}: it must be a Bourne shell, like root's on every OpenVZ node.
Exit codes, streams and end of a channel: RFC 4254, section 6.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.conch.client.knownhosts import KnownHostsFile
from twisted.conch.endpoints import AuthenticationFailed, SSHCommandClientEndpoint
from twisted.conch.error import ConchError, HostKeyChanged, UserRejectedKey
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import BadKeyError, EncryptedKeyError, Key
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.filepath import FilePath

from fluidvm.driver import DriverError, DriverHost, Unreachable
from fluidvm.drivers.openvz.conch_internals import Channel, Connection
from fluidvm.drivers.openvz.places import Places
from fluidvm.drivers.openvz.runner import Collected, Outcome, environment

CHANNELS = 5
"""Maximum number of parallel commands: by default sshd allows 10 sessions per connection, and it releases them late."""
LEEWAY = 5
"""
Seconds after a command's time-out until the node's own C{timeout} kills it: sshd kills no commands of root. Without that,
commands that never end would use the connection's slots forever.
"""
RETRIES, RETRY = 20, 0.25
"""How often a command is retried if sshd has no session for it, and after how many seconds."""
PING, UNANSWERED = 5.0, 4
"""Seconds between keep-alive requests, and how many can stay unanswered before the connection is considered lost."""
_SIGNALS = {
    b"ABRT": 6,
    b"ALRM": 14,
    b"FPE": 8,
    b"HUP": 1,
    b"ILL": 4,
    b"INT": 2,
    b"KILL": 9,
    b"PIPE": 13,
    b"QUIT": 3,
    b"SEGV": 11,
    b"TERM": 15,
    b"USR1": 10,
    b"USR2": 12,
}


@dataclass(frozen=True)
class SshAddress:
    """The address of a node's sshd, and the user to log in as."""

    user: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != 22 else "")


def parse_address(address: str) -> SshAddress | None:
    """
    Read a node's address.

    @return: C{None} for the server's own machine.
    @raise ValueError: its text says what an address looks like.
    """
    if not address:
        return None
    example = "empty for the server's own machine, else ssh://[user@]host[:port]"
    try:
        parts = urlsplit(address)
        port = parts.port or 22
    except ValueError as error:
        raise ValueError(f"not a valid address of an OpenVZ node ({error}): {example}") from None
    if parts.scheme != "ssh" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"not a valid address of an OpenVZ node: {example}")
    if parts.password is not None:
        raise ValueError(f"an address must not contain a password, use a key or an agent: {example}")
    user = parts.username or "root"
    for word in (parts.hostname, user):
        if word.startswith("-") or not word.isascii() or not word.isprintable() or " " in word:
            raise ValueError(f"{word!r} is not allowed in an address: {example}")
    return SshAddress(user, parts.hostname, port)


class HostKeys(KnownHostsFile):  # type: ignore[misc]
    """
    Checks a node's host key. Unknown keys are refused: nobody is asked, and nothing is stored.

    @param pinned: the only valid key; C{None}: those of C{known}.
    """

    def __init__(self, address: SshAddress, pinned: Key | None, known: KnownHostsFile | None) -> None:
        super().__init__(FilePath("/dev/null"))  # never written
        self._names = [address.host.encode(), f"[{address.host}]:{address.port}".encode()]
        self._pinned = pinned
        self._known = known

    def verifyHostKey(self, ui: Any, hostname: bytes, ip: bytes, key: Key) -> Deferred[bool]:
        """Fire with true, or fail."""
        if self._pinned is not None:
            return succeed(True) if key.blob() == self._pinned.blob() else fail(UserRejectedKey())
        if self._known is None:
            return fail(UserRejectedKey())
        return maybeDeferred(self._look, key)

    def _look(self, key: Key) -> bool:
        assert self._known is not None
        if not any(self._known.hasHostKey(name, key) for name in self._names):  # raises HostKeyChanged for a different key
            raise UserRejectedKey
        return True


@dataclass(frozen=True)
class Credentials:
    """The login of a connection: one key file, or the agent at a socket; and the valid host keys."""

    keys: list[Key]
    agent: str
    host_key: Key | None
    known_hosts: KnownHostsFile | None


def read_credentials(key_file: str, agent: str, host_key: str, known_hosts: str) -> Credentials:
    """
    Read keys from the server's disk. Blocks.

    @param key_file: a private key without passphrase; empty: the agent is used.
    @param agent: the agent's socket; empty: none.
    @param host_key: a public key as in C{ssh_host_*_key.pub}; empty: known_hosts is used.
    @raise DriverError: a file doesn't exist or isn't valid.
    """
    try:
        keys = [Key.fromString(Path(key_file).read_bytes())] if key_file else []
    except OSError as error:
        raise DriverError(f"The SSH key {key_file} can't be read: {error.strerror}.") from None
    except EncryptedKeyError:
        raise DriverError(f"The SSH key {key_file} has a passphrase: give it to an agent.") from None
    except BadKeyError:
        raise DriverError(f"The file {key_file} contains no SSH key.") from None
    if not keys and not agent:
        raise DriverError("There is no SSH key: set the node's option key_file or agent.")
    try:
        pinned = Key.fromString(host_key.encode()) if host_key else None
    except (BadKeyError, ValueError, struct.error):
        raise DriverError("The option host_key is not a valid public key.") from None
    known = None
    if pinned is None:
        path = Path(known_hosts).expanduser()
        try:
            known = KnownHostsFile.fromPath(FilePath(str(path)))
        except OSError as error:
            raise DriverError(f"{path} can't be read: {error.strerror}.") from None
    return Credentials(keys, agent, pinned, known)


class _Exec(Channel):
    """One command."""

    name = b"session"

    def __init__(self, command: bytes, stdin: bytes, host: DriverHost, subject: str, timeout: float) -> None:
        super().__init__()
        self.collected = Collected(host, subject, timeout, self.kill)
        self.gone: Deferred[None] = Deferred()
        self._command = command
        self._stdin = stdin
        self._ending = False
        self._opened = False
        self.refused = False

    def channelOpen(self, data: bytes) -> None:
        self._opened = True
        begun = self.conn.sendRequest(self, b"exec", NS(self._command), wantReply=True)
        begun.addCallbacks(self._begun, self.openFailed)

    def _begun(self, _: Any) -> None:
        if self._stdin:
            self.write(self._stdin)
        self._ending = True
        self._end_stdin()

    def _end_stdin(self) -> None:
        if self._ending and self.all_sent:
            self._ending = False
            self.conn.sendEOF(self)

    def addWindowBytes(self, data: int) -> None:
        super().addWindowBytes(data)
        self._end_stdin()

    def openFailed(self, reason: Any) -> None:
        self.refused = True
        self.collected.fail(Unreachable("sshd refuses to run a command."))
        if self._opened:
            self.loseConnection()
        else:
            self._over()

    def dataReceived(self, data: bytes) -> None:
        self.collected.out(data)

    def extReceived(self, dataType: int, data: bytes) -> None:  # noqa: N803
        self.collected.err(data)

    def request_exit_status(self, data: bytes) -> None:
        self.collected.exited(struct.unpack(">L", data)[0])
        # Processes that the command left behind may keep the channel open.
        self.collected.outcome.addBoth(self._let_go)

    def request_exit_signal(self, data: bytes) -> None:
        self.collected.exited(-_SIGNALS.get(getNS(data)[0], 1))

    def _let_go(self, result: Any) -> Any:
        self.loseConnection()
        return result

    def kill(self) -> None:
        """Ask sshd to kill the command, which not every sshd does, and stop waiting for it."""
        if self._opened:
            self.conn.sendRequest(self, b"signal", NS(b"KILL"))
            self.loseConnection()

    def _over(self) -> None:
        if not self.gone.called:
            self.gone.callback(None)

    def closed(self) -> None:
        self.collected.ended()
        self._over()


class _Keeper(Protocol):
    """
    Runs C{cat}, which echoes keep-alive requests. It keeps the connection open: conch closes it with the first command.

    @param lost: called when it ends.
    """

    def __init__(self, host: DriverHost, lost: Callable[[str], None]) -> None:
        self._host = host
        self._lost = lost
        self._next: IDelayedCall | None = None
        self.unanswered = 0
        self.ended: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self._ping()

    def _ping(self) -> None:
        if self.unanswered >= UNANSWERED:
            self._lost(f"didn't respond for {PING * UNANSWERED:g} s")
            return
        self.unanswered += 1
        assert self.transport is not None
        self.transport.write(b"\n")
        self._next = self._host.clock.callLater(PING, self._ping)

    def dataReceived(self, data: bytes) -> None:
        self.unanswered = 0

    def connectionLost(self, reason: Any = None) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._lost("closed the connection")
        self.ended.callback(None)


class SshRunner:
    """
    Runs commands on a node over SSH. Call L{open} first.

    @param bin_dir: where commands are looked for first; empty: nowhere else than usual.
    """

    def __init__(self, host: DriverHost, address: SshAddress, bin_dir: str) -> None:
        self.where = str(address)
        self.peer = address.host
        self._host = host
        self._address = address
        self._prefix = environment(bin_dir)
        self._connection: Connection | None = None
        self._keeper: _Keeper | None = None
        self._places = Places(host.clock, CHANNELS)
        self._closed = False
        self._lost_reason: str | None = None
        self._on_lost: list[Callable[[str], None]] = []

    async def open(self, credentials: Credentials) -> None:
        """
        Connect and log in.

        @raise Unreachable: the node doesn't answer, has the wrong host key, or refuses the login.
        """
        reactor = self._host.reactor
        address = self._address
        agent = UNIXClientEndpoint(reactor, credentials.agent) if credentials.agent and not credentials.keys else None
        keys: Any = HostKeys(address, credentials.host_key, credentials.known_hosts)
        ui: Any = object()
        endpoint = SSHCommandClientEndpoint.newConnection(
            reactor,
            b"exec cat",
            address.user.encode(),
            address.host.encode(),
            address.port,
            keys=credentials.keys or None,
            agentEndpoint=agent,
            knownHosts=keys,
            ui=ui,
        )
        try:
            keeper: Any = await endpoint.connect(Factory.forProtocol(lambda: _Keeper(self._host, self._lose)))  # type: ignore[arg-type]
        except (UserRejectedKey, HostKeyChanged):
            raise Unreachable(f"{self.where}: the host key differs from the one that is known for it.") from None
        except AuthenticationFailed:
            raise Unreachable(f"{self.where}: the node refused the login with this key.") from None
        except CancelledError:
            raise
        except (ConnectError, ConnectionClosed, ConchError, OSError) as error:
            raise Unreachable(f"{self.where}: {str(error).strip().rstrip('.') or type(error).__name__}.") from error
        self._keeper = keeper
        self._connection = Connection(keeper.transport)

    def run(self, argv: Sequence[str], timeout: float, stdin: bytes = b"", keep: int = 0) -> Deferred[Outcome]:
        async def run() -> Outcome:
            for _ in range(RETRIES):
                outcome = await self._try(argv, timeout, stdin, keep)
                if outcome is not None:
                    return outcome
                await deferLater(self._host.clock, RETRY, lambda: None)
            raise Unreachable(f"{self.where}: sshd refuses to run a command.")

        return Deferred.fromCoroutine(run())

    async def _try(self, argv: Sequence[str], timeout: float, stdin: bytes, keep: int) -> Outcome | None:
        """Run a command; C{None} if sshd had no session for it."""
        subject = f"{argv[0]} on {self.where}"
        await self._places.take(subject, keep, timeout)
        channel: _Exec | None = None
        try:
            connection = self._check()
            bound = ["timeout", "-s", "KILL", str(ceil(timeout) + LEEWAY)]
            command = shlex.join([*self._prefix, *bound, *argv]).encode()
            channel = _Exec(command, stdin, self._host, subject, timeout)
            connection.open(channel)
            return await channel.collected.outcome
        except Unreachable:
            if channel is not None and channel.refused and self._lost_reason is None and not self._closed:
                return None
            raise
        finally:
            # The slot is released with the channel: after a time-out or a cancellation the command may still run.
            if channel is None:
                self._places.give_back(keep)
            else:
                channel.gone.addCallback(lambda _: self._places.give_back(keep))

    def _check(self) -> Connection:
        if self._closed or self._connection is None:
            raise Unreachable(f"The connection to {self.where} is closed.")
        if self._lost_reason is not None:
            raise Unreachable(self._lost_reason)
        return self._connection

    def close(self) -> Deferred[None]:
        self._closed = True
        if self._keeper is None or self._keeper.ended.called:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._keeper.ended.chainDeferred(closed)
        if self._connection is not None:
            self._connection.abort()
        return closed

    def on_lost(self, callback: Callable[[str], None]) -> None:
        self._on_lost.append(callback)

    def _lose(self, why: str) -> None:
        if self._closed or self._lost_reason is not None:
            return
        self._lost_reason = f"{self.where} {why}."
        if self._connection is not None:
            self._connection.abort()
        for callback in self._on_lost:
            callback(self._lost_reason)
