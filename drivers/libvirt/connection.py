"""
A connection to a host through libvirt: opening it, calling through it, its events and its loss.

libvirt's calls block: each runs in the node's own thread (L{DriverHost.run}), in functions here that are named C{_do_...} or
passed to C{_call}; the methods around them run in the reactor. libvirt's events come in its event loop's thread and are
handed on at once.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import libvirt
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from fluidvm.driver import DomainState, DriverError, DriverHost, IEvents, NoSuchThing, Unreachable
from fluidvm.drivers.libvirt.domain_xml import KEEPER_PREFIX, PROBE_PREFIX
from fluidvm.drivers.libvirt.errors import code_of, translate, translate_open
from fluidvm.drivers.libvirt.events import ensure_loop

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

LogIn = Callable[[], tuple[str, str]]
"""Returns a user name and a password for a host that requires them (SASL); it may block."""

KEEPALIVE = (5, 3)
"""Seconds between keep-alive messages, and how many can stay unanswered: a dead host is detected within 20 s."""

POLL = 0.25
"""Polling interval in seconds for operations that a guest carries out gradually."""

_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.STOPPING,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}
# Other events don't determine the state.
_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: DomainState.STOPPING,
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_CRASHED: DomainState.CRASHED,
}
_LOSSES = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "the connection failed",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "the host closed the connection",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "the host stopped answering",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "the connection was closed",
}


def verb(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[C, P], Deferred[T]]:
    """Decorator: an C{async} method returns a Deferred, as the interfaces require, and begins at once, awaited or not."""

    @functools.wraps(method)
    def wrapper(self: C, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(method(self, *args, **kwargs))

    return wrapper


def check_uri(address: str, default: str, drivers: Sequence[str]) -> str:
    """
    Check a libvirt URI without opening it.

    @param default: the URI for an empty address.
    @param drivers: the allowed schemes, without the transport: C{qemu}.
    @return: the URI to open.
    @raise ValueError: its text says what a URI looks like.
    @see: U{https://libvirt.org/uri.html}
    """
    if not address:
        return default
    schemes = [driver + transport for driver in drivers for transport in ("", "+unix", "+tcp", "+tls", "+ssh")]
    example = f"e.g. {drivers[0]}+tls://host.example/system or {default}"
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"not a valid libvirt URI ({error}): {example}") from None
    if parts.scheme not in schemes:
        raise ValueError(f"a libvirt URI must begin with one of {', '.join(schemes)}: {example}")
    if parts.path not in ("/system", "/session"):
        raise ValueError(f"a libvirt URI's path must be /system or /session: {example}")
    if parts.scheme.endswith(("+tcp", "+tls", "+ssh")) and not parts.hostname:
        raise ValueError(f"this transport requires a host name: {example}")
    if (parts.hostname is not None and parts.hostname.startswith("-")) or any(c.isspace() for c in address):
        raise ValueError(f"the host name is not valid: {example}")
    if parts.scheme.endswith("+ssh") and "no_tty=" not in parts.query:
        # A server can't ask for a password: a host that requires one is refused at once.
        return address + ("&" if parts.query else "?") + "no_tty=1"
    return address


def do_open(uri: str, log_in: LogIn | None, keepalive: tuple[int, int] = KEEPALIVE) -> Any:
    """
    Open a libvirt connection with keep-alive messages; blocks.

    @param keepalive: as L{KEEPALIVE}.
    @return: C{libvirt.virConnect}.
    @raise libvirt.libvirtError: it can't be opened.
    @raise DriverError: C{log_in} fails.
    """
    ensure_loop()
    connection = libvirt.open(uri) if log_in is None else libvirt.openAuth(uri, _authentication(*log_in()), 0)
    try:
        connection.setKeepAlive(*keepalive)
    except libvirt.libvirtError:
        connection.close()
        raise
    return connection


async def open_connection(uri: str, host: DriverHost, log_in: LogIn | None = None) -> Any:
    """
    Open a libvirt connection with keep-alive messages.

    @return: C{libvirt.virConnect}. If this is cancelled, the connection is closed as soon as it is open.
    @raise Unreachable: the host doesn't answer.
    @raise DriverError: the host refuses the connection.
    """
    abandoned = threading.Event()

    def opening() -> Any:
        try:
            connection = do_open(uri, log_in)
        except libvirt.libvirtError as error:
            raise translate_open(error, uri) from error
        if abandoned.is_set():
            connection.close()
        return connection

    try:
        return await host.run(opening)
    except CancelledError:
        abandoned.set()
        raise


def _authentication(user: str, password: str) -> list[Any]:
    """Create the credentials argument of C{libvirt.openAuth} for a host that requires a login."""
    names = (libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_USERNAME)

    def answer(questions: list[list[Any]], _opaque: Any) -> int:
        for question in questions:
            # Type, prompt, challenge, default, and a place for the answer.
            question[4] = user if question[0] in names else password
        return 0

    return [[*names, libvirt.VIR_CRED_PASSPHRASE], answer, None]


@implementer(IEvents)
class LibvirtConnection:
    """
    A host: its connection and its events.

    @param connection: from L{open_connection}.
    @param uri: the URI with which it was opened.
    @param options: the node's.
    @param log_in: how further connections are opened, as this one was.
    """

    _log = Logger()

    def __init__(
        self, connection: Any, uri: str, options: Mapping[str, Any], host: DriverHost, log_in: LogIn | None = None
    ) -> None:
        self._connection = connection
        self._uri = uri
        self._options = options
        self._host = host
        self._log_in = log_in
        self._local = not urlsplit(uri).hostname
        self._closed = False
        self._lost_reason: str | None = None
        self._on_lost: list[Callable[[str], None]] = []
        self._subscribers: list[Callable[[str, DomainState | None], None]] = []
        self._event_ids: list[int] = []
        self._told: dict[str, DomainState | None] = {}
        self._events_seen: dict[str, int] = {}

    # The connection.

    @verb
    async def prepare(self) -> None:
        """Register for the host's events and for the end of the connection. Call it once, before anything else."""
        await self._call("events", self._do_prepare)

    def _do_prepare(self) -> None:
        self._connection.registerCloseCallback(self._closed_behind_us, None)
        self._event_ids.append(
            self._connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        )

    @verb
    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._host.run(self._do_close)

    def _do_close(self) -> None:
        for undo in (
            *(functools.partial(self._connection.domainEventDeregisterAny, id) for id in self._event_ids),
            self._connection.unregisterCloseCallback,
            self._connection.close,
        ):
            try:
                undo()
            except libvirt.libvirtError:
                # A dead connection refuses each of these calls, but they aren't needed then.
                continue

    def on_lost(self, callback: Callable[[str], None]) -> None:
        self._on_lost.append(callback)
        if self._lost_reason is not None and not self._closed:
            callback(self._lost_reason)

    def _closed_behind_us(self, _connection: Any, reason: int, _opaque: Any) -> None:
        self._host.call_in_reactor(self._lose, f"{self._uri}: {_LOSSES.get(reason, 'the connection was lost')}.")

    def _lose(self, reason: str) -> None:
        if self._closed or self._lost_reason is not None:
            return
        self._lost_reason = reason
        for callback in list(self._on_lost):
            callback(reason)

    async def _call(self, subject: str, function: Callable[..., T], *args: Any) -> T:
        """
        Call a blocking function, and convert libvirt's errors to the driver's.

        @param subject: the beginning of an error's sentence.
        """
        return await self._call_in(self._host.run, subject, function, *args)

    async def _call_in(self, run: Callable[..., Deferred[T]], subject: str, function: Callable[..., T], *args: Any) -> T:
        """Like L{_call}, with C{run} or C{run_long} of the L{DriverHost}."""
        if self._closed:
            raise Unreachable(f"{self._uri}: the connection is closed.")
        if self._lost_reason is not None:
            raise Unreachable(self._lost_reason)
        try:
            return await run(self._guarded, subject, function, *args)
        except Unreachable as error:
            self._lose(str(error))
            raise

    def _guarded(self, subject: str, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        except libvirt.libvirtError as error:
            raise translate(error, subject, self._alive()) from error

    def _alive(self) -> bool:
        try:
            return bool(self._connection.isAlive() == 1)
        except libvirt.libvirtError:
            return False

    async def _wait(self, seconds: float = POLL) -> None:
        await deferLater(self._host.clock, seconds, lambda: None)

    def _seconds(self) -> float:
        return self._host.clock.seconds()

    # Queries.

    def _hidden(self, domain: Any) -> bool:
        """Whether a domain is internal and never reported; doesn't query the host."""
        return bool(domain.name().startswith((PROBE_PREFIX, KEEPER_PREFIX)))

    def _do_find(self, uuid: str) -> Any:
        try:
            return self._connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if code_of(error) in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_DOMAIN):
                raise NoSuchThing(f"The host has no domain {uuid}.") from error
            raise

    def _do_state(self, domain: Any) -> DomainState:
        number, reason = domain.state()
        if number == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_CRASHED:
            return DomainState.CRASHED
        if number == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:
            return DomainState.RUNNING
        if number == libvirt.VIR_DOMAIN_SHUTOFF:
            if domain.hasManagedSaveImage(0):
                return DomainState.SAVED
            if reason == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
                return DomainState.CRASHED
        return _STATES.get(number, DomainState.STOPPED)

    # Events.

    def subscribe(self, callback: Callable[[str, DomainState | None], None]) -> None:
        self._subscribers.append(callback)

    def _lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        # This runs in the event loop's thread: it must not call the host, because the call would wait for this thread.
        if not self._hidden(domain):
            self._host.call_in_reactor(self._happened, domain.UUIDString(), event, detail)

    def _happened(self, uuid: str, event: int, detail: int) -> None:
        if self._closed:
            return
        seen = self._events_seen[uuid] = self._events_seen.get(uuid, 0) + 1
        state = _EVENTS.get(event)
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            # A domain that was only running no longer exists; for the others the state is known at once.
            state = DomainState.SAVED if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED else DomainState.STOPPED
            if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED:
                state = DomainState.CRASHED
        if state is not None:
            self._tell(uuid, state)
        if state is None or event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            looking = Deferred.fromCoroutine(self._look(uuid, seen))
            looking.addErrback(
                lambda failure: self._log.failure("Reading the state of domain {uuid} failed", failure, uuid=uuid)
            )

    async def _look(self, uuid: str, seen: int) -> None:
        try:
            state: DomainState | None = await self._call(
                f"state of domain {uuid}", lambda: self._do_state(self._do_find(uuid))
            )
        except NoSuchThing:
            state = None
        except DriverError:
            return
        # Events since then are newer than this result.
        if self._events_seen.get(uuid) == seen and (uuid not in self._told or self._told[uuid] is not state):
            self._tell(uuid, state)

    def _tell(self, uuid: str, state: DomainState | None) -> None:
        if state is None:
            self._told.pop(uuid, None)
            self._events_seen.pop(uuid, None)
        else:
            self._told[uuid] = state
        if self._closed:
            return
        for callback in list(self._subscribers):
            callback(uuid, state)


def dotted(number: int) -> str:
    """Format a version number of libvirt: 1,000,000 * major + 1,000 * minor + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
