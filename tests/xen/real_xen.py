"""One machine with Xen for all tests of a process, its guests, and what tests need beside the driver."""

from __future__ import annotations

import functools
import uuid
from pathlib import Path
from typing import Any

import libvirt
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fluidvm.driver import Boot, DomainDisk, DomainSpec
from fluidvm.drivers.xen.driver import DOM0, XenConnection, XenDriver
from lab.host import LabError
from tests import TIMEOUT
from tests.real.real_host import ThreadHost, until

from .machine import USER, XenMachine, image

POOL = "/var/lib/libvirt/images"
GUEST = "/srv/guest"
"""Where dom0 has what guests boot."""
PVGRUB = {"pv": "/usr/lib/grub-xen/grub-x86_64-xen.bin", "pvh": "/usr/lib/grub-xen/grub-i386-xen_pvh.bin"}
"""A boot loader that runs in the guest, for each kind that wants one."""
UP = TIMEOUT
"""Seconds that a guest has to boot; a paravirtual one takes 3 on a quiet host."""


@functools.cache
def _booted(number: int) -> XenMachine | LabError:
    """A machine, or why there is none: what failed once isn't tried again by each test."""
    try:
        machine = XenMachine(image(), shared_machine() if number > 1 else None)
        machine.start()
    except LabError as error:
        return error
    return machine


def shared_machine() -> XenMachine:
    """
    The process's machine, booted at the first call, gone when the process ends in whatever way.

    @raise LabError: it can't be had; says why.
    """
    return _machine(1)


def other_machine() -> XenMachine:
    """A second machine, which domains are moved to: as L{shared_machine}."""
    return _machine(2)


def _machine(number: int) -> XenMachine:
    machine = _booted(number)
    if isinstance(machine, LabError):
        raise machine
    return machine


def options(machine: XenMachine, **more: Any) -> dict[str, Any]:
    """The driver's options for the machine over TCP."""
    return {
        "username": USER,
        "password_file": str(machine.password_file),
        "pool_path": POOL,
        "migration_uri": f"tcp://{machine.address}",
        **more,
    }


def bootable(name: str, cmdline: str = "console=hvc0 quiet", **changes: Any) -> DomainSpec:
    """A domain that boots the guest's kernel directly."""
    fields = {
        "uuid": str(uuid.uuid4()),
        "name": name,
        "vcpus": 1,
        "max_vcpus": 2,
        "memory": 128,
        "max_memory": 192,
        "boot": Boot(f"{GUEST}/vmlinux", f"{GUEST}/initrd.gz", cmdline),
    }
    return DomainSpec(**{**fields, **changes})


def kill_daemon(machine: XenMachine) -> None:
    """Kill dom0's libvirtd, which comes back by itself a second later."""
    machine.run("busybox", "killall", "-9", "libvirtd")


class Console:
    """
    A guest's console, read from now on; what it said before is there, too.

    @ivar text: all that it has said.
    """

    def __init__(self, outside: libvirt.virConnect, uuid: str) -> None:
        self.text = ""
        self._stream = outside.newStream(libvirt.VIR_STREAM_NONBLOCK)
        outside.lookupByUUIDString(uuid).openConsole(None, self._stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)

    async def says(self, words: str, seconds: float = UP) -> None:
        """Wait until it has said something."""

        def look() -> bool:
            received = self._stream.recv(65536)
            while isinstance(received, bytes) and received:
                self.text += received.decode(errors="replace")
                received = self._stream.recv(65536)
            return words in self.text

        try:
            await until(words, look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; the console:\n{self.text}") from error

    async def tell(self, line: str) -> str:
        """Have the guest run a line, and give what it answers."""
        self.text = ""
        self.write(line)
        await self.says("RC=")
        return self.text

    def write(self, line: str) -> None:
        """Type a line."""
        self._stream.send(f"{line}\n".encode())

    def close(self) -> None:
        """Let go of it."""
        try:
            self._stream.abort()
        except libvirt.libvirtError as error:
            # It has ended with its domain.
            if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INVALID_STREAM):
                raise


class XenCase(TestCase):
    """Tests on the real Xen; each ends with nothing of its own left there."""

    timeout = 900

    async def setUp(self) -> None:
        self.machine = shared_machine()
        self.connection = await self.connect()
        self.outside = self.machine.open()
        self.addCleanup(self.clean_up)

    async def connect(self, address: str = "", **more: Any) -> XenConnection:
        """Open one more connection, over TCP if not told otherwise; closed at the end."""
        host = ThreadHost(Path(self.mktemp()))
        self.addCleanup(host.stop)
        connection = await XenDriver().connect(address or self.machine.tcp, options(self.machine, **more), host)
        self.addCleanup(lambda: maybeDeferred(connection.close))
        return connection

    def clean_up(self) -> None:
        """Remove every domain but dom0, and every volume."""
        outside = self.outside if self.outside.isAlive() else self.machine.open()
        for domain in outside.listAllDomains(0):
            if domain.UUIDString() == DOM0:
                continue
            try:
                domain.destroy()
            except libvirt.libvirtError:
                # It has ended, perhaps just now.
                if domain.isActive():
                    raise
            if domain.isPersistent():
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
        for pool in outside.listAllStoragePools(0):
            pool.refresh()
            for volume in pool.listAllVolumes():
                volume.delete()
        outside.close()

    async def in_dom0(self, *command: str) -> str:
        """Run a command in dom0."""
        return str(await deferToThread(self.machine.run, *command))

    async def started(self, name: str = "web1", connection: XenConnection | None = None, **changes: Any) -> DomainSpec:
        """Define and start a domain."""
        connection = connection or self.connection
        spec = bootable(name, **changes)
        await connection.define_domain(spec)
        await connection.start(spec.uuid)
        return spec

    async def up(self, spec: DomainSpec) -> Console:
        """Wait until a domain's guest has booted, and give its console."""
        console = Console(self.outside, spec.uuid)
        self.addCleanup(console.close)
        await console.says("GUEST-UP")
        return console

    async def volume(self, name: str, size: int = 16, format: str = "raw") -> DomainDisk:
        """Make a volume, to be attached as vda."""
        made = await self.connection.create_volume("default", name, size, format, lambda percent: None)
        return DomainDisk(made.path, made.format, "vda")
