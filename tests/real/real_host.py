"""One private libvirt host for all tests of a process, and what tests of a driver need beside it."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import threading
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import libvirt
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import TestCase

from fluidvm.driver import Boot, DomainDisk, DomainSpec
from fluidvm.drivers.kvm import KvmConnection, KvmDriver
from lab.host import LibvirtHost, guest
from tests import TIMEOUT

reactor: Any = _reactor
CMDLINE = "console=ttyS0 quiet cryptomgr.notests"
"""The guest kernel's. Its tests of its ciphers are a sixth of a boot."""
_shared: LibvirtHost | None = None
_other: LibvirtHost | None = None


def shared_host() -> LibvirtHost:
    """The process's host, started at the first call, gone when the process ends in whatever way."""
    global _shared
    if _shared is None:
        # Short, for a socket's path has 107 characters at most.
        host = LibvirtHost(Path(tempfile.mkdtemp(prefix="fluidvm-")))
        atexit.register(shutil.rmtree, host.directory, ignore_errors=True)  # after the host, which registers later
        host.start()
        (host.directory / "console").mkdir()
        _shared = host
    return _shared


def other_host() -> LibvirtHost:
    """A second host, which domains are moved to: as L{shared_host}."""
    global _other
    if _other is None:
        host = LibvirtHost(Path(tempfile.mkdtemp(prefix="fluidvm-")), number=2)
        atexit.register(shutil.rmtree, host.directory, ignore_errors=True)  # after the host, which registers later
        host.start()
        _other = host
    return _other


class ThreadHost:
    """What the server lends a driver, with the real clock and one real thread."""

    def __init__(self, directory: Path) -> None:
        self.clock: Any = reactor
        self.reactor: Any = reactor
        self.node = "node1"
        self.state_dir = directory
        self._pool = ThreadPool(1, 1, "node1")
        # An interrupted run doesn't clean up, and mustn't wait for this thread for ever.
        self._pool.threadFactory = functools.partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        self._pool.start()

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(reactor, self._pool, function, *args)

    def run_long(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), function, *args)

    def call_in_reactor(self, function: Callable[..., Any], *args: Any) -> None:
        reactor.callFromThread(function, *args)

    async def stop(self) -> None:
        done: Deferred[None] = Deferred()

        def stop() -> None:
            self._pool.stop()
            reactor.callFromThread(done.callback, None)

        reactor.callInThread(stop)
        await done


POLL = 0.05


async def until(what: str, look: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """
    Look until there is something to see.

    @param look: gives it, or an awaitable of it.
    @param seconds: counted by how often it has looked: on a busy machine, where each look takes longer, they are longer.
    @raise AssertionError: nothing came.
    """
    passed = 0.0
    while True:
        seen = look()
        if isinstance(seen, Awaitable):
            seen = await seen
        if seen:
            return seen
        if passed > seconds:
            raise AssertionError(f"no {what} within {seconds:g} s")
        await deferLater(reactor, POLL, lambda: None)
        passed += POLL


def bootable(name: str, **changes: Any) -> DomainSpec:
    """A domain that boots the guest's kernel directly."""
    files = guest()
    boot = Boot(str(files / "vmlinux"), str(files / "initrd.gz"), CMDLINE)
    fields = {
        "uuid": str(uuid.uuid4()),
        "name": name,
        "vcpus": 1,
        "max_vcpus": 2,
        "memory": 128,
        "max_memory": 192,
        "boot": boot,
    }
    return DomainSpec(**{**fields, **changes})


class HostCase(TestCase):
    """Tests on the real host; each ends with nothing of its own left there."""

    options: dict[str, Any] = {"accelerator": "emulate"}

    async def setUp(self) -> None:
        self.lab = shared_host()
        self.guest = guest()
        self.connection = await self.connect()
        self.outside = libvirt.open(self.lab.uri)
        self.addCleanup(self.clean_up)

    async def connect(self, **options: Any) -> KvmConnection:
        """Open one more connection, closed at the end."""
        return await self.connect_to(self.lab, **options)

    async def connect_to(self, lab: LibvirtHost, **options: Any) -> KvmConnection:
        """Open one more connection to one of the hosts, closed at the end."""
        host = ThreadHost(Path(self.mktemp()))
        self.addCleanup(host.stop)
        given = {
            **self.options,
            "pool_path": str(lab.directory / "pool"),
            "console_log_dir": str(lab.directory / "console"),
            **options,
        }
        connection = await KvmDriver().connect(lab.uri, given, host)
        self.addCleanup(lambda: maybeDeferred(connection.close))
        return connection

    def clean_up(self) -> None:
        try:
            for domain in self.outside.listAllDomains(0):
                if domain.isActive():
                    domain.destroy()
                if domain.isPersistent():
                    domain.undefineFlags(KvmConnection.undefine_flags)
            for pool in self.outside.listAllStoragePools(0):
                pool.refresh()
                for volume in pool.listAllVolumes():
                    volume.delete()
            self.outside.close()
        except libvirt.libvirtError:
            # A test that kills the daemon has a dead connection here.
            if self.outside.isAlive():
                raise

    def spec(self, name: str = "web1", **changes: Any) -> DomainSpec:
        """A domain that boots the guest's kernel directly."""
        return bootable(name, **changes)

    def console(self, uuid: str) -> str:
        """All that a domain's serial console has said."""
        log = self.lab.directory / "console" / f"{uuid}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    async def up(self, uuid: str, times: int = 1) -> None:
        """Wait until the guest has booted this many times."""
        await until(
            f"boot number {times} of the guest; its console:\n{self.console(uuid)}",
            lambda: self.console(uuid).count("GUEST-UP") >= times,
        )

    async def booted(self, **changes: Any) -> DomainSpec:
        """Define and start a domain, and wait for its guest."""
        spec = self.spec(**changes)
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)
        await self.up(spec.uuid)
        return spec

    async def tell(self, uuid: str, line: str) -> str:
        """Have the guest run a line on its console, and give what it answers."""
        before = len(self.console(uuid))
        stream = self.outside.newStream()
        self.outside.lookupByUUIDString(uuid).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        stream.send(f"{line}\n".encode())
        # Ending the stream at once would lose what the daemon has still to pass on.
        await until(f"answer to {line!r}", lambda: "RC=" in self.console(uuid)[before:])
        stream.abort()
        return self.console(uuid)[before:]

    async def volume(self, name: str, size: int = 16, format: str = "raw") -> DomainDisk:
        """Make a volume, to be attached as vda."""
        made = await self.connection.create_volume("default", name, size, format, lambda percent: None)
        return DomainDisk(made.path, made.format, "vda")
