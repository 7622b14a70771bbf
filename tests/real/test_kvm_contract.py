"""The public driver contract, on a real libvirtd with guests that boot."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import libvirt
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from fluidvm.conformance import driver_contract
from fluidvm.driver import DomainSpec
from fluidvm.drivers.kvm import KvmDriver
from tests.real.agent_guest import listening, obedient
from tests.real.real_host import ThreadHost, bootable, other_host, shared_host, until


class KvmFactory:
    driver = KvmDriver()
    pool = "default"
    network = "lab"
    model = "e1000"
    console = (b"echo $((6*7))", b"42")
    patience = 60.0

    def __init__(self) -> None:
        self._hosts: list[ThreadHost] = []

    async def start(self) -> None:
        self.lab = shared_host()
        self.address = self.lab.uri
        self.options = {
            "accelerator": "emulate",
            "pool_path": str(self.lab.directory / "pool"),
            "console_log_dir": str(self.lab.directory / "console"),
        }

    async def stop(self) -> None:
        while self._hosts:
            await self._hosts.pop().stop()

    def host(self) -> ThreadHost:
        self._hosts.append(ThreadHost(Path(tempfile.gettempdir()) / "fluidvm-none"))
        return self._hosts[-1]

    def spec(self, name: str, **changes: Any) -> DomainSpec:
        return bootable(name, **changes)

    async def booted(self, connection: Any, uuid: str) -> None:
        log = self.lab.directory / "console" / f"{uuid}.log"
        await until("boot", lambda: log.exists() and "GUEST-UP" in log.read_text(errors="replace"), self.patience)

    async def pass_time(self, seconds: float) -> None:
        await deferLater(reactor, seconds, lambda: None)

    async def connect_other(self) -> Any:
        lab = other_host()
        options = {
            "accelerator": "emulate",
            "pool_path": str(lab.directory / "pool"),
            "migration_uri": f"unix://{lab.directory}",
        }
        return await self.driver.connect(lab.uri, options, self.host())

    async def power_off_behind(self, uuid: str) -> None:
        outside = libvirt.open(self.lab.uri)
        outside.lookupByUUIDString(uuid).destroy()
        outside.close()

    async def cut(self, connection: Any) -> None:
        self.lab.signal_daemon()
        # The daemon is back after a second; its socket answers for a moment still.
        await deferLater(reactor, 0.5, lambda: None)
        await deferToThread(self.lab.wait_ready)


globals().update(driver_contract(KvmFactory()))


class AgentFactory(KvmFactory):
    """The same host, with guests that have QEMU's agent in them."""

    def spec(self, name: str, **changes: Any) -> DomainSpec:
        return obedient(name, **changes)

    async def booted(self, connection: Any, uuid: str) -> None:
        await super().booted(connection, uuid)
        await listening(self.lab, uuid)


# The other tests' guest is smaller.
globals()["GuestContract"] = driver_contract(AgentFactory())["GuestContract"]
