"""OpenVZ nodes for tests: the stand-ins for its tools, reached on this machine or through a real sshd."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from fluidvm.driver import DomainSpec, DriverError
from fluidvm.drivers.openvz.driver import OpenVzDriver
from tests.fakes.vz.node import FakeNode
from tests.real.real_host import ThreadHost
from tests.real.real_sshd import Sshd

_shared: dict[bool, Sshd] = {}


def shared_sshd() -> Sshd:
    """The process's sshd, started at the first call, gone when the process ends in whatever way."""
    if True not in _shared:
        sshd = Sshd(Path(tempfile.mkdtemp(prefix="fluidvm-sshd-")))
        atexit.register(_end, sshd)
        _shared[True] = sshd
    _shared[True].start()
    return _shared[True]


def _end(sshd: Sshd) -> None:
    sshd.stop()
    shutil.rmtree(sshd.directory, ignore_errors=True)


class VzThreadHost(ThreadHost):
    """What the server lends the driver."""

    reactor = reactor


class VzFactory:
    """
    The contract's host: one node in a directory, kept until the tests end.

    @param ssh: whether it is reached through sshd.
    @param upstream: whether its kernel isn't OpenVZ's.
    """

    driver = OpenVzDriver()
    pool = "none"
    patience = 60.0

    def __init__(self, dialect: int, ssh: bool, upstream: bool = False) -> None:
        self._dialect = dialect
        self._upstream = upstream
        self._ssh = ssh
        self._node: FakeNode | None = None
        self._other: FakeNode | None = None
        self._hosts: list[ThreadHost] = []

    async def start(self) -> None:
        if self._node is None:
            directory = Path(tempfile.mkdtemp(prefix="fluidvm-vz-"))
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            self._node = FakeNode(directory, self._dialect)
            if self._upstream:
                self._node.upstream()
        self.address, self.options = self._way(shared_sshd() if self._ssh else None)

    def _way(self, sshd: Sshd | None) -> tuple[str, dict[str, Any]]:
        # A simfs container has no snapshots.
        kind = upstream_options(self.node) if self._upstream else {"layout": "ploop"}
        options = node_options(self.node) | kind
        return ("", options) if sshd is None else (sshd.address, options | sshd.options)

    @property
    def node(self) -> FakeNode:
        assert self._node is not None
        return self._node

    async def stop(self) -> None:
        while self._hosts:
            await self._hosts.pop().stop()

    def host(self) -> ThreadHost:
        self._hosts.append(VzThreadHost(Path(tempfile.gettempdir()) / "fluidvm-none"))
        return self._hosts[-1]

    def spec(self, name: str, **changes: Any) -> DomainSpec:
        return container_spec(name, **changes)

    async def booted(self, connection: Any, uuid: str) -> None:
        """The stand-in's guest obeys at once."""

    async def pass_time(self, seconds: float) -> None:
        await deferLater(reactor, seconds, lambda: None)

    async def connect_other(self) -> Any:
        if self._other is None:
            directory = Path(tempfile.mkdtemp(prefix="fluidvm-vz-"))
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            self._other = FakeNode(directory, self._dialect)
            (self.node.root / "nodes").write_text(f"other.example={self._other.root}\n")
        options = {**self.options, **node_options(self._other), "peer_name": "other.example"}
        return await self.driver.connect(self.address, options, self.host())

    async def power_off_behind(self, uuid: str) -> None:
        self.node.power_off(self.node.ctid(uuid))

    async def cut(self, connection: Any) -> None:
        if self._ssh:
            shared_sshd().cut()
            await deferLater(reactor, 0.2, lambda: None)
            return
        # This machine isn't lost but by its tools.
        (self.node.bin / "vzctl").rename(self.node.bin / "away")
        (self.node.bin / "vzlist").rename(self.node.bin / "vzlist-away")
        try:
            await connection.list_domains()
        except DriverError:
            pass
        finally:
            (self.node.bin / "away").rename(self.node.bin / "vzctl")
            (self.node.bin / "vzlist-away").rename(self.node.bin / "vzlist")


def node_options(node: FakeNode) -> dict[str, Any]:
    """The driver's options for a node."""
    return {"template": "debian-12-x86_64", "bin_dir": str(node.bin), "conf_dir": str(node.conf_dir)}


def upstream_options(node: FakeNode) -> dict[str, Any]:
    """What else the driver is told of a node whose kernel isn't OpenVZ's: where its control groups are."""
    return {"memory_dir": str(node.root / "cgroup"), "freezer_dir": str(node.root / "freezer")}


def container_spec(name: str, **changes: Any) -> DomainSpec:
    """A container."""
    fields = {"uuid": str(uuid.uuid4()), "name": name, "vcpus": 1, "max_vcpus": 2, "memory": 128, "max_memory": 192}
    return DomainSpec(**{**fields, **changes})
