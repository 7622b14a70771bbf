"""
An OpenVZ node: running its commands, waiting for containers' locks, and identifying containers.

vzctl fails at once if another command holds a container's lock, so every change is retried for a while. Exit codes show
success, and the result is then read again; messages are never parsed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import deferLater

from fluidvm.driver import DomainInfo, DomainState, DriverError, DriverHost, NoSuchThing, Unreachable
from fluidvm.drivers.openvz.dialect import (
    GREP_KEYS,
    LIST_FIELDS,
    LOCKED,
    STATES,
    SURVEY,
    Dialect,
    Listed,
    Moment,
    Status,
    explain,
    first_line,
    is_ctid,
    parse_grep,
    parse_list,
    parse_moment,
    parse_status,
    split_survey,
)
from fluidvm.drivers.openvz.identity import Identity, identify, is_unfinished, own_id
from fluidvm.drivers.openvz.runner import Outcome, Runner

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")
READ, CHANGE, LONG = 60.0, 600.0, 3600.0
"""Time-outs in seconds of commands that read, that start or stop, and that copy a file system."""
FIRST_RETRY, LONGEST_RETRY, TIMEOUT = 0.5, 5.0, 90.0
"""Waiting for a container's lock, in seconds: the first and the longest interval, and the total."""
CHANGING, LASTING = 1, 2
"""
Slots that a command leaves free for others: a command that changes something leaves one for those that read, and a long
command, which copies or runs in a guest, leaves another one for those that change something.
"""
CONF_DIR = "/etc/vz/conf"
FREEZER_DIR = "/sys/fs/cgroup/freezer"
SYSTEM_ERROR = 3
ON = (DomainState.RUNNING, DomainState.PAUSED)


def verb(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[C, P], Deferred[T]]:
    """Decorator: an C{async} method returns a Deferred, as the interfaces require, and begins at once, awaited or not."""

    @functools.wraps(method)
    def wrapper(self: C, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(method(self, *args, **kwargs))

    return wrapper


@dataclass(frozen=True)
class Container:
    """The current container of a domain."""

    identity: Identity
    listed: Listed
    info: DomainInfo
    mounted: bool

    @property
    def ctid(self) -> str:
        """Its id on the node."""
        return self.identity.ctid

    @property
    def state(self) -> DomainState:
        """Its state."""
        return self.info.state


class VzNode:
    """
    Base class for the abilities.

    @param runner: runs commands on the node.
    @param dialect: of its tools.
    @param options: the node's.
    @param cpus: the node's CPUs.
    @param memory: the node's MiB.
    @param openvz: whether its kernel is OpenVZ's.
    """

    def __init__(
        self,
        runner: Runner,
        dialect: Dialect,
        options: Mapping[str, Any],
        host: DriverHost,
        cpus: int,
        memory: int,
        openvz: bool,
    ) -> None:
        self._runner = runner
        self._dialect = dialect
        self._options = options
        self._host = host
        self._cpus = cpus
        self._memory = memory
        self._openvz = openvz
        self._conf_dir = str(options.get("conf_dir", CONF_DIR)).rstrip("/")
        self._names_dir = f"{self._conf_dir.rpartition('/')[0]}/names"
        self._freezer_dir = str(options.get("freezer_dir", FREEZER_DIR)).rstrip("/")
        self._closed = False
        self._lost_reason: str | None = None
        self._on_lost: list[Callable[[str], None]] = []
        self._locks: dict[str, DeferredLock] = {}
        runner.on_lost(self._lose)

    # The connection.

    @verb
    async def close(self) -> None:
        self._closed = True
        await self._runner.close()

    def on_lost(self, callback: Callable[[str], None]) -> None:
        self._on_lost.append(callback)
        if self._lost_reason is not None and not self._closed:
            callback(self._lost_reason)

    def _lose(self, reason: str) -> None:
        if self._closed or self._lost_reason is not None:
            return
        self._lost_reason = reason
        # This doesn't wait for commands that still run on the node.
        closing = self._runner.close()
        closing.addErrback(lambda failure: failure.trap(DriverError))
        for callback in list(self._on_lost):
            callback(reason)

    def _check_open(self) -> None:
        """@raise Unreachable: the connection is closed or lost."""
        if self._closed:
            raise Unreachable(f"The connection to {self._runner.where} is closed.")
        if self._lost_reason is not None:
            raise Unreachable(self._lost_reason)

    async def _run(self, argv: Sequence[str], timeout: float = READ, stdin: bytes = b"") -> Outcome:
        """Run a command. @raise Unreachable: the connection is lost then."""
        self._check_open()
        try:
            keep = LASTING if timeout > CHANGE else CHANGING if timeout > READ else 0
            return await self._runner.run(argv, timeout, stdin, keep)
        except Unreachable as error:
            self._lose(str(error))
            raise

    async def _wait(self, seconds: float) -> None:
        await deferLater(self._host.clock, seconds, lambda: None)

    # Commands.

    async def _vz(
        self, subject: str, *words: str, timeout: float = CHANGE, stdin: bytes = b"", patience: float = 0.0
    ) -> Outcome:
        """
        Run vzctl, and retry while another command holds the container's lock.

        @param subject: the beginning of an error's sentence.
        @param patience: seconds; by default as long as a similar command may take, perhaps an earlier attempt
            from before a restart of the server, but not less than L{TIMEOUT}.
        @return: any outcome but "locked".
        @raise WrongState: the lock couldn't be obtained.
        """
        delay, waited = FIRST_RETRY, 0.0
        patience = patience or (LONG if timeout > CHANGE else TIMEOUT)
        while True:
            outcome = await self._run(["vzctl", *words], timeout, stdin)
            if outcome.code == 127:
                raise self._vanished()
            if outcome.code != LOCKED:
                return outcome
            if waited >= patience:
                raise self._explain(subject, outcome)
            await self._wait(delay)
            waited += delay
            delay = min(2 * delay, LONGEST_RETRY)

    async def _unlocked(self, subject: str, ctid: str) -> None:
        """
        Wait until no command holds a container's lock, up to the time-out of a command that copies a file system. This also
        makes vzctl remove the lock of a killed command: unmounting does that, and has no other effect on a stopped
        container.
        """
        await self._vz(subject, "umount", ctid, patience=LONG)

    def _vanished(self) -> Unreachable:
        error = Unreachable(f"{self._runner.where}: vzctl is no longer installed.")
        self._lose(str(error))
        return error

    def _explain(self, subject: str, outcome: Outcome) -> DriverError:
        return explain(self._dialect, subject, outcome.code, outcome.stdout, outcome.stderr)

    async def _do(self, subject: str, *words: str, timeout: float = CHANGE) -> Outcome:
        """Run vzctl, which must succeed. @raise DriverError: according to its exit code."""
        outcome = await self._vz(subject, *words, timeout=timeout)
        if outcome.code != 0:
            raise self._explain(subject, outcome)
        return outcome

    async def _set(self, subject: str, ctid: str, new: Sequence[str], old: Sequence[str]) -> None:
        """
        Change a container's parameters, at once if it runs and in its configuration; all or none.

        @param ctid: the id of an existing container: C{set} would create a configuration for any other.
        @param old: the values to restore if that fails: dialect 7 saves what it couldn't apply.
        """
        outcome = await self._vz(subject, "set", ctid, *new, "--save")
        if outcome.code != 0:
            if old:
                await self._vz(subject, "set", ctid, *old, "--save")
            raise self._explain(subject, outcome)

    async def _status(self, ctid: str) -> Status:
        outcome = await self._run(["vzctl", "status", ctid])
        if outcome.code == 127:
            raise self._vanished()
        if outcome.code != 0:
            raise self._explain(f"status of container {ctid}", outcome)
        return parse_status(outcome.stdout)

    async def _list(self, *words: str) -> list[Listed]:
        return self._listed(await self._run(["vzlist", "-j", "-o", ",".join(LIST_FIELDS), *words]), *words)

    def _listed(self, outcome: Outcome, *words: str) -> list[Listed]:
        """Run vzlist, and parse its output. @raise DriverError: it failed, or doesn't exist."""
        if outcome.code == 127:
            raise self._vanished()
        missing = outcome.code == 1 and is_ctid(words[-1]) and outcome.stdout.strip() in ("", "[]")
        if outcome.code != 0 and not missing:
            raise DriverError(f"{self._runner.where}: vzlist failed: {first_line(outcome.stderr)}.")
        return parse_list(outcome.stdout)

    async def _moment(self) -> Moment:
        """The current boot of the node, and its uptime."""
        return parse_moment((await self._run(["cat", "/proc/sys/kernel/random/boot_id", "/proc/uptime"])).stdout)

    # Identities.

    async def _survey(self, *words: str) -> tuple[dict[str, Identity], Outcome]:
        """
        Read the identities of all containers that have a configuration, by UUID, and list some of them, with one command.

        @param words: the arguments of vzlist.
        @return: the identities, and the output of vzlist.
        """
        argv = ["sh", "-c", SURVEY, "sh", GREP_KEYS, self._conf_dir, self._names_dir, ",".join(LIST_FIELDS), *words]
        outcome = await self._run(argv)
        grepped, named, listing = split_survey(outcome.stdout)
        confs = parse_grep(grepped)
        found = identify(self._host.node, {ctid: conf.get("DESCRIPTION", "") for ctid, conf in confs.items()})
        making = {ctid for ctid, conf in confs.items() if not self._dialect.uuids and is_unfinished(ctid, conf, named)}
        identities = {
            uuid: Identity(uuid, ctid, conf.get("NAME", ""), mark, conf.get("DESCRIPTION", ""), conf, ctid in making)
            for uuid, (ctid, mark) in found.items()
            for conf in (confs[ctid],)
        }
        return identities, replace(outcome, stdout=listing)

    async def _container(self, uuid: str) -> Container:
        """@raise NoSuchThing: there is none."""
        container = await self._find(uuid)
        if container is None:
            raise NoSuchThing(f"The node has no container {uuid}.")
        return container

    async def _find(self, uuid: str) -> Container | None:
        """Read a domain's container; C{None} if there is none."""
        return (await self._search(uuid))[0]

    async def _search(self, uuid: str) -> tuple[Container | None, dict[str, Identity]]:
        """Read a domain's container, and the identities of all containers."""
        # Most probably it has the id that it would get if it were created now.
        guess = uuid if self._dialect.uuids else own_id(uuid)
        identities, outcome = await self._survey(guess)
        if outcome.code == 127:
            raise self._vanished()
        identity = identities.get(uuid)
        known = identity is not None and not identity.unfinished
        return await self._look(identity, guess, outcome) if identity and known else None, identities

    async def _look(self, identity: Identity, guess: str, outcome: Outcome) -> Container | None:
        """@param outcome: the output of vzlist for the container C{guess}."""
        paused = identity.mark is not None and identity.mark.paused is not None
        before = await self._moment() if paused else None
        if paused or identity.ctid != guess:
            listed = await self._list(identity.ctid)
        else:
            listed = self._listed(outcome, guess)
        status = await self._status(identity.ctid) if not listed or unsure(listed[0]) else as_listed(listed[0])
        if not status.exists:
            return None
        listed = listed or await self._list("-S", identity.ctid)  # as in the next method
        if not listed:
            return None
        made = self._put_together(identity, listed[0], status, before, await self._moment() if paused else None)
        return await self._as_frozen(made)

    async def _containers(self) -> list[Container]:
        """Read all containers."""
        surveyed, outcome = await self._survey("-a")
        identities = {identity.ctid: identity for identity in surveyed.values()}
        paused = any(identity.mark and identity.mark.paused is not None for identity in identities.values())
        before = await self._moment() if paused else None
        listed = await self._list("-a") if paused else self._listed(outcome, "-a")
        # Without /proc/vz (vzctl on a kernel that isn't OpenVZ's) vzlist lists none.
        blind = not listed and bool(identities)
        if blind:
            listed = await self._list("-S")
        after = await self._moment() if paused else None
        made = []
        for one in listed:
            identity = identities.get(one.ctid)
            if identity is None or identity.unfinished:
                continue  # it was created after the configurations were read, or its creation isn't finished
            status = await self._status(one.ctid) if blind or unsure(one) else as_listed(one)
            if status.exists:
                made.append(await self._as_frozen(self._put_together(identity, one, status, before, after)))
        return made

    def _put_together(
        self, identity: Identity, listed: Listed, status: Status, before: Moment | None, after: Moment | None
    ) -> Container:
        state = STATES.get(status.state, DomainState.CRASHED)
        mark = identity.mark
        if state is DomainState.RUNNING and mark and mark.paused is not None and before and after:
            low, high = started(before, listed.uptime) - 2, started(after, listed.uptime) + 2
            if low <= mark.paused <= high:
                state = DomainState.PAUSED
        vcpus = listed.cpus or self._cpus
        bound = listed.memory if self._openvz else listed.bound
        memory = self._memory if bound is None else bound
        info = DomainInfo(
            identity.uuid,
            identity.name or identity.ctid,
            state,
            vcpus,
            max(vcpus, mark.max_vcpus if mark else 0),
            memory,
            max(memory, mark.max_memory if mark else 0),
            (),
            listed.onboot,
        )
        return Container(identity, listed, info, status.mounted)

    async def _freezer(self, ctid: str, write: str = "") -> str:
        """
        Read the state of a container's freezer, on kernels other than OpenVZ's; C{""} if it has none.

        @param write: the new state, if it is to be changed.
        @see: the kernel's Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst
        """
        if self._dialect.number != 4:
            return ""
        path = f"{self._freezer_dir}/vz-{ctid}/freezer.state"
        if write:
            await self._run(["tee", path], stdin=write.encode())
        outcome = await self._run(["cat", path])
        return outcome.stdout.strip() if outcome.code == 0 else ""

    async def _as_frozen(self, container: Container) -> Container:
        # vzlist reports running containers as mounted if they have freezers.
        if container.state is not DomainState.RUNNING or container.listed.state == "running":
            return container
        frozen = await self._freezer(container.ctid) in ("FROZEN", "FREEZING")
        return replace(container, info=replace(container.info, state=DomainState.PAUSED)) if frozen else container

    async def _alone(self, uuid: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run an operation on a domain when no other one of this connection is in progress."""
        lock = self._locks.setdefault(uuid, DeferredLock())
        await lock.acquire()
        try:
            return await work()
        finally:
            lock.release()
            if not lock.locked and not lock.waiting:
                self._locks.pop(uuid, None)


def unsure(listed: Listed) -> bool:
    """Whether vzlist's state may be wrong: on a kernel that isn't OpenVZ's it reports running containers as mounted."""
    return listed.state not in ("running", "paused", "suspended", "stopped")


def as_listed(listed: Listed) -> Status:
    """The output that C{vzctl status} would have, derived from that of vzlist."""
    return Status(True, listed.state in ("running", "paused"), listed.state)


def started(moment: Moment, uptime: float) -> int:
    """
    A number that identifies the start of a container on this node: the boot, and the seconds since.

    @param uptime: how long it had been running at that moment, in seconds.
    """
    return moment.boot * 10**10 + round(moment.uptime - uptime)


def changed(subject: str, wanted: object, is_now: object) -> None:
    """Check the result of a change. @raise DriverError: it isn't what was requested."""
    if wanted != is_now:
        raise DriverError(f"{subject}: {wanted} was requested and vzctl reported success, but it is {is_now}.")
