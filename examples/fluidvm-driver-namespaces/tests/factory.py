"""The factory of the contract's tests: the driver, and a directory of guests to test it on."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from fluidvm.driver import DomainSpec
from fluidvm_driver_namespaces import processes
from fluidvm_driver_namespaces.driver import NamespacesDriver

TEMPLATE = Path(__file__).parent.parent / "template.sh"


class Host:
    """A L{DriverHost} with the real clock and one thread."""

    node = "node1"

    def __init__(self, directory: Path) -> None:
        self.clock = reactor
        self.state_dir = directory
        self._pool = ThreadPool(1, 1)
        self._pool.start()

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(reactor, self._pool, function, *args)

    def call_in_reactor(self, function: Callable[..., Any], *args: Any) -> None:
        reactor.callFromThread(function, *args)

    def stop(self) -> None:
        self._pool.stop()


class Factory:
    """Guests in a temporary directory, which is removed after the tests."""

    driver = NamespacesDriver()
    patience = 120.0

    def __init__(self) -> None:
        self._hosts: list[Host] = []
        self._directory: Path | None = None

    async def start(self) -> None:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="fluidvm-namespaces-"))
            atexit.register(shutil.rmtree, self._directory, ignore_errors=True)
            subprocess.run([TEMPLATE, self._directory / "template"], check=True)
        self.guests = self._directory / "guests"
        self.address = str(self.guests)
        self.options = {"template": str(self._directory / "template")}

    async def stop(self) -> None:
        while self._hosts:
            self._hosts.pop().stop()

    def host(self) -> Host:
        self._hosts.append(Host(self.guests))
        return self._hosts[-1]

    def spec(self, name: str, **changes: Any) -> DomainSpec:
        fields: dict[str, Any] = {"vcpus": 1, "max_vcpus": 2, "memory": 32, "max_memory": 64}
        return DomainSpec(**{"uuid": str(uuid.uuid4()), "name": name, **fields, **changes})

    def init(self, uuid: str) -> int:
        """The process that is a guest's init."""
        return processes.init_of(processes.holder(self.guests / f"{uuid}.lock"))

    async def booted(self, connection: Any, uuid: str) -> None:
        for _ in range(int(self.patience / 0.02)):
            init = self.init(uuid)
            if init and Path(f"/proc/{init}/root/run/up").exists():
                return
            await self.pass_time(0.02)
        raise AssertionError(f"the guest of {uuid} doesn't come up")

    async def pass_time(self, seconds: float) -> None:
        await deferLater(reactor, seconds, lambda: None)

    async def power_off_behind(self, uuid: str) -> None:
        os.kill(self.init(uuid), signal.SIGKILL)

    async def cut(self, connection: Any) -> None:
        # As if its disk had been mounted again.
        other = self.guests.with_suffix(".copy")
        shutil.copytree(self.guests, other)
        shutil.rmtree(self.guests)
        other.rename(self.guests)
