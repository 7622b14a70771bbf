"""The OpenVZ driver over one real SSH connection, whose places for commands are few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from fluidvm.driver import DomainState, DriverError, Unreachable
from fluidvm.drivers.openvz import ssh as vz_ssh
from fluidvm.drivers.openvz.driver import OpenVzConnection
from tests.real.real_host import until
from tests.real.vz_factory import VzFactory


class BusyConnectionTests(TestCase):
    async def setUp(self) -> None:
        self.factory = VzFactory(4, True)
        await self.factory.start()
        self.addCleanup(self.factory.stop)
        self.connection = await self.connect()

    async def connect(self) -> OpenVzConnection:
        factory = self.factory
        connection = await factory.driver.connect(factory.address, factory.options, factory.host())
        self.addCleanup(connection.close)
        return connection

    async def started(self, name: str) -> str:
        spec = self.factory.spec(name)
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)
        return spec.uuid

    async def test_five_endless_commands(self) -> None:
        """They don't take the node away, nor from others: it is watched, and changed."""
        uuid = await self.started("web1")
        lost: list[str] = []
        self.connection.on_lost(lost.append)
        going = self.factory.node.root / "going-on"
        going.touch()
        self.addCleanup(going.unlink, missing_ok=True)
        begun = self.factory.node.root / "begun"
        line = ["sh", "-c", f"echo >>{begun}; while [ -e {going} ]; do sleep 0.05; done"]
        endless: list[Deferred[Any]] = [self.connection.run_in_guest(uuid, line, b"", 3.0) for _ in range(5)]
        await until("command in the guest", lambda: begun.exists() and begun.read_text().count("\n") == 3)
        await self.connection.resize_memory(uuid, 160)
        other = await self.started("web2")
        states = {domain.uuid: domain.state for domain in await self.connection.list_domains()}
        self.assertEqual(states[other], DomainState.RUNNING)
        for command in endless:
            error = await self.assertFailure(command, DriverError)
            self.assertNotIsInstance(error, Unreachable)
        self.assertEqual(lost, [])
        going.unlink()
        for one in (uuid, other):
            await self.connection.stop(one)
            await self.connection.undefine_domain(one)

    async def test_the_node_itself_ends_commands(self) -> None:
        """sshd kills none for root."""
        self.patch(vz_ssh, "LEEWAY", 0)
        pids = self.factory.node.root / "pids"
        # Not to be ended mildly, as vzctl with its lock; and with a process of its own.
        line = f"trap '' TERM; sleep 600 & echo $! $$ >{pids}; wait"
        running = self.connection._runner.run(["sh", "-c", line], 0.5)
        await until("command", lambda: pids.exists() and pids.read_text().strip())
        await self.assertFailure(running, Unreachable)  # type: ignore[arg-type]
        for pid in pids.read_text().split():
            await until("end of it", lambda pid=pid: not runs(pid))  # type: ignore[misc]

    async def test_commands_leave_no_lines_in_the_log(self) -> None:
        seen: list[Any] = []

        def observe(event: Any) -> None:
            seen.append(event)

        globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
        self.addCleanup(globalLogPublisher.removeObserver, observe)  # type: ignore[arg-type]
        await self.connection.list_domains()
        await self.connection._runner.run(["sh", "-c", "echo err >&2; exit 3"], 10.0)
        self.assertEqual([event["log_format"] for event in seen], [])


def runs(pid: str) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
