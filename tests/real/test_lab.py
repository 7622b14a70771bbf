"""Private libvirt hosts beside each other, and what a killed one leaves."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, TestCase

from lab.host import LibvirtHost
from tests.real.real_host import HostCase, until


class HostElsewhere(LibvirtHost):
    """A host in a PID namespace of its own, where the process ids of other hosts mean nothing."""

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(directory, **options)
        user = [] if os.getuid() == 0 else ["--user", "--map-root-user", "--map-auto"]
        self._command = ["unshare", *user, "--pid", "--fork", "--kill-child", "--mount-proc", *self._command]


class HostWithoutCores(LibvirtHost):
    """A host whose processes may leave no core files, as under sudo."""

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(directory, **options)
        self._command = ["prlimit", "--core=0:0", *self._command]


def group_of(host: LibvirtHost) -> Path:
    """The control group that a host has made, which it does only as root and with version 1 of control groups."""
    named = host.directory / "group"
    if not named.exists():
        raise SkipTest("hosts make no control groups here")
    return Path(named.read_text().strip())


def is_free(group: Path) -> bool:
    """Whether no process holds a group any more, or it is gone."""
    try:
        opened = os.open(group, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(opened)
    return True


class OtherHostTests(HostCase):
    async def start_other(self, kind: type[LibvirtHost]) -> None:
        """Start another host beside the shared one, and go on there."""
        directory = Path(tempfile.mkdtemp(prefix="fluidvm-"))
        self.addCleanup(shutil.rmtree, directory)
        self.lab = kind(directory, number=2)
        self.addCleanup(self.lab.stop)
        self.lab.start()
        (directory / "console").mkdir()

    async def test_hosts_in_two_pid_namespaces_start_guests(self) -> None:
        shared = self.lab
        await self.start_other(HostElsewhere)
        elsewhere, self.lab = self.lab, shared
        await self.booted(name="here")
        self.lab = elsewhere
        self.connection = await self.connect()
        await self.booted(name="there")

    async def test_guests_start_where_core_files_are_forbidden(self) -> None:
        await self.start_other(HostWithoutCores)
        self.connection = await self.connect()
        spec = self.spec()
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)


class KilledHostTests(TestCase):
    timeout = 180

    def host(self) -> LibvirtHost:
        directory = Path(tempfile.mkdtemp(prefix="fluidvm-"))
        self.addCleanup(shutil.rmtree, directory)
        host = LibvirtHost(directory)
        self.addCleanup(host.stop)
        host.start()
        return host

    async def test_the_next_host_removes_the_group_of_a_killed_one(self) -> None:
        killed, living = self.host(), self.host()
        left, kept = group_of(killed), group_of(living)
        self.assertFalse(is_free(left))
        os.kill(int((killed.directory / "host.pid").read_text()), signal.SIGKILL)
        await until("end of the host's processes", lambda: is_free(left), 60)
        self.host()
        self.assertFalse(left.exists())
        self.assertTrue(kept.exists())

    async def test_a_stopped_host_leaves_no_group(self) -> None:
        host = self.host()
        group = group_of(host)
        self.assertTrue(group.exists())
        host.stop()
        self.assertFalse(group.exists())
