"""The public driver contract, on a real Xen: paravirtual guests that boot, seen from outside over TCP."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from fluidvm.conformance import driver_contract
from fluidvm.driver import DomainSpec
from fluidvm.drivers.xen.driver import XenDriver
from tests.real.real_host import ThreadHost

from .real_xen import UP, Console, bootable, kill_daemon, options, other_machine, shared_machine

OWN = ("ConnectionContract", "DisksContract", "EventsContract")
"""What the driver does in its own way. The other abilities it shares with kvm's driver, for the most part."""

timeout = 900.0
"""Seconds that trial gives each test; its own two minutes are few for an emulated machine on a busy host."""


class XenFactory:
    driver = XenDriver()
    pool = "default"
    network = "lab"
    model = "netfront"
    console = (b"echo $((6*7))", b"42")
    patience = UP

    def __init__(self) -> None:
        self._hosts: list[ThreadHost] = []

    async def start(self) -> None:
        self.machine = shared_machine()
        self.address = self.machine.tcp
        self.options = options(self.machine)

    async def stop(self) -> None:
        while self._hosts:
            await self._hosts.pop().stop()

    def host(self) -> ThreadHost:
        self._hosts.append(ThreadHost(Path(tempfile.gettempdir()) / "fluidvm-none"))
        return self._hosts[-1]

    def spec(self, name: str, **changes: Any) -> DomainSpec:
        return bootable(name, **changes)

    async def booted(self, connection: Any, uuid: str) -> None:
        outside = self.machine.open()
        try:
            console = Console(outside, uuid)
            await console.says("GUEST-UP")
            console.close()
        finally:
            outside.close()

    async def pass_time(self, seconds: float) -> None:
        await deferLater(reactor, seconds, lambda: None)

    async def connect_other(self) -> Any:
        machine = other_machine()
        return await self.driver.connect(machine.tcp, options(machine), self.host())

    async def power_off_behind(self, uuid: str) -> None:
        outside = self.machine.open()
        outside.lookupByUUIDString(uuid).destroy()
        outside.close()

    async def cut(self, connection: Any) -> None:
        await deferToThread(kill_daemon, self.machine)
        await deferToThread(self.machine.wait_ready)


# The others are in L{tests.xen.more_contract}.
globals().update({name: case for name, case in driver_contract(XenFactory()).items() if name in OWN})
