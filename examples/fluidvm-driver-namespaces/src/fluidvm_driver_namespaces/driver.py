"""The driver object and its connections, which pass each verb on to L{Domains}, in the node's own thread."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from signal import Signals
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from fluidvm.driver import (
    DomainInfo,
    DomainSpec,
    DomainState,
    DriverHost,
    HostInfo,
    IConnection,
    IDriver,
    IEvents,
    ILiveResize,
    Struct,
    Text,
    Unreachable,
)
from fluidvm_driver_namespaces.domains import Domains

T = TypeVar("T")
LOOK = 0.25
"""Polling interval in seconds for changes by others."""
PATH = r"(/[A-Za-z0-9._+-]+)+"
POWER_OFF, REBOOT = Signals.SIGUSR2, Signals.SIGTERM
"""The signals of BusyBox's init for these requests."""


@implementer(IConnection, ILiveResize, IEvents)
class NamespacesConnection:
    """
    A connection to the guests of a directory.

    @param states: each domain's state now, by its UUID.
    """

    _log = Logger()

    def __init__(self, domains: Domains, host: DriverHost, states: dict[str, DomainState]) -> None:
        self._domains = domains
        self._host = host
        self._states = states
        self._open = True
        self._lost: list[Callable[[str], None]] = []
        self._lost_reason = ""
        self._listeners: list[Callable[[str, DomainState | None], None]] = []
        self._looking = LoopingCall(self._look)
        self._looking.clock = host.clock
        self._looking.start(LOOK, now=False).addErrback(
            lambda failure: self._log.failure("Polling of the domains has ended with an error", failure)
        )

    # asking

    def _do(self, function: Callable[..., T], *args: Any, changes: bool = False, **named: Any) -> Deferred[T]:
        """Call a function of L{Domains} in the node's thread; then report what it changed."""

        async def run() -> T:
            self._check()
            try:
                return await self._host.run(lambda: function(*args, **named))
            except Unreachable as error:
                self._lose(str(error))
                raise
            finally:
                if changes and self._open:
                    await self._look()

        return Deferred.fromCoroutine(run())

    def _change(self, function: Callable[..., T], *args: Any, **named: Any) -> Deferred[T]:
        return self._do(function, *args, changes=True, **named)

    def _check(self) -> None:
        if not self._open:
            raise Unreachable(f"The connection is closed: {self._lost_reason or 'the server closed it.'}")

    # the connection

    def close(self) -> Deferred[None]:
        """Close the directory; guests keep running."""
        self._lost.clear()
        return self._shut()

    def _shut(self) -> Deferred[None]:
        if not self._open:
            return succeed(None)
        self._open = False
        self._listeners.clear()
        self._looking.stop()
        # After the calls that are still queued in the thread.
        return self._host.run(self._domains.close)

    def _lose(self, reason: str) -> None:
        if self._open:
            self._lost_reason = reason
            self._shut()
            callbacks, self._lost = self._lost, []
            for callback in callbacks:
                self._safely(callback, reason)

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call C{callback} when the directory is lost; at once if that is already known."""
        if self._lost_reason:
            self._safely(callback, self._lost_reason)
        else:
            self._lost.append(callback)

    # events

    def subscribe(self, callback: Callable[[str, DomainState | None], None]) -> None:
        """Call C{callback} at each state change: at once for changes by this connection, else at the next poll."""
        self._listeners.append(callback)

    async def _look(self) -> None:
        """Report what has changed since the last poll."""
        try:
            now = await self._host.run(lambda: states(self._domains.all()))
        except Unreachable as error:
            self._lose(str(error))
            return
        except Exception:
            self._log.failure("The domains can't be polled")
            return
        if not self._open:
            return
        before, self._states = self._states, now
        for uuid in {**before, **now}:
            if before.get(uuid) is not now.get(uuid):
                for callback in list(self._listeners):
                    self._safely(callback, uuid, now.get(uuid))

    def _safely(self, callback: Callable[..., None], *news: Any) -> None:
        # The verb has taken effect even if a callback fails, and the other callbacks must be called, too.
        try:
            callback(*news)
        except Exception:
            self._log.failure("A callback failed")

    # the core

    def host_info(self) -> Deferred[HostInfo]:
        """Describe this machine."""
        return self._do(host_info)

    def list_domains(self) -> Deferred[Sequence[DomainInfo]]:
        """List all domains."""
        return self._do(self._domains.all)

    def get_domain(self, uuid: str) -> Deferred[DomainInfo]:
        """Describe one domain."""
        return self._do(self._domains.get, uuid)

    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        """Define a domain."""
        return self._change(self._domains.define, spec)

    def undefine_domain(self, uuid: str) -> Deferred[None]:
        """Undefine a domain."""
        return self._change(self._domains.undefine, uuid)

    def start(self, uuid: str) -> Deferred[None]:
        """Boot a domain."""
        return self._change(self._domains.start, uuid)

    def shutdown(self, uuid: str) -> Deferred[None]:
        """Ask a guest's init to power off."""
        return self._change(self._domains.ask, uuid, POWER_OFF, stopped_too=True)

    def stop(self, uuid: str) -> Deferred[None]:
        """Kill a guest."""
        return self._change(self._domains.stop, uuid)

    def reboot(self, uuid: str) -> Deferred[None]:
        """Ask a guest's init to reboot."""
        return self._change(self._domains.ask, uuid, REBOOT, stopped_too=False)

    def pause(self, uuid: str) -> Deferred[None]:
        """Pause a guest's processes."""
        return self._change(self._domains.pause, uuid)

    def resume(self, uuid: str) -> Deferred[None]:
        """Resume a guest's processes."""
        return self._change(self._domains.resume, uuid)

    def set_memory(self, uuid: str, memory: int) -> Deferred[None]:
        """Resize a stopped domain."""
        return self._do(self._domains.resize, uuid, memory=memory)

    def set_vcpus(self, uuid: str, vcpus: int) -> Deferred[None]:
        """Resize a stopped domain."""
        return self._do(self._domains.resize, uuid, vcpus=vcpus)

    # live resize

    def resize_memory(self, uuid: str, memory: int) -> Deferred[None]:
        """Resize a running domain."""
        return self._do(self._domains.resize_live, uuid, memory=memory)

    def resize_vcpus(self, uuid: str, vcpus: int) -> Deferred[None]:
        """Resize a running domain."""
        return self._do(self._domains.resize_live, uuid, vcpus=vcpus)


@implementer(IDriver)
class NamespacesDriver:
    """Guests on the server's own machine."""

    name = "namespaces"
    summary = "Guests on this machine that are processes in Linux namespaces."
    connection = NamespacesConnection
    options = Struct(
        "settings of the guests",
        fields={
            "template": Text(
                "directory with the guests' root file system; its /sbin/init is BusyBox's or obeys the same signals",
                longest=1024,
                pattern=PATH,
                rule="an absolute path",
            ),
        },
        required=("template",),
    )

    def check_address(self, address: str) -> None:
        """The address is a directory, in which the guests' definitions are stored."""
        if not re.fullmatch(PATH, address):
            raise ValueError("must be the absolute path of a directory on this machine: letters, digits and . _ + - /")

    def connect(self, address: str, options: Mapping[str, Any], host: DriverHost) -> Deferred[NamespacesConnection]:
        """Open the directory."""

        def open_it() -> tuple[Domains, dict[str, DomainState]]:
            domains = Domains(Path(address), Path(options["template"]))
            try:
                return domains, states(domains.all())
            except BaseException:
                domains.close()
                raise

        async def connect() -> NamespacesConnection:
            domains, now = await host.run(open_it)
            return NamespacesConnection(domains, host, now)

        return Deferred.fromCoroutine(connect())


def states(domains: Sequence[DomainInfo]) -> dict[str, DomainState]:
    """The state of each domain, by UUID."""
    return {domain.uuid: domain.state for domain in domains}


def host_info() -> HostInfo:
    """Read this machine's CPUs, memory and kernel."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    kernel = os.uname().release
    return HostInfo(os.cpu_count() or 1, memory, f"Linux {kernel}", version("fluidvm-driver-namespaces"))
