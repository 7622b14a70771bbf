"""The simulator passes the driver contract."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from fluidvm.conformance import driver_contract
from fluidvm.driver import DomainSpec
from fluidvm.drivers.simulator.driver import SimulatedConnection, SimulatorDriver
from fluidvm.drivers.simulator.host import SimulatedHost


class ClockHost:
    """A L{DriverHost} with a clock that tests advance, and without threads."""

    node = "node1"

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self.state_dir = state_dir
        self.clock: Any = clock
        self.reactor: Any = None

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return maybeDeferred(function, *args)

    run_long = run

    def call_in_reactor(self, function: Callable[..., Any], *args: Any) -> None:
        function(*args)


class SimulatorFactory:
    """
    The simulator, with a host in a temporary directory.

    @param connection: the class of the driver's connections, if not the simulator's own.
    """

    address = ""
    pool = "default"
    network = "default"
    model = "e1000"
    console = (b"hello", b"heard: hello")
    patience = 5.0

    def __init__(self, connection: type[SimulatedConnection] = SimulatedConnection, **options: Any) -> None:
        self.driver: Any = driver_of(connection)
        self.options = options
        self.clock = Clock()
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    async def start(self) -> None:
        # It is removed after the tests: the host's journal is in it.
        self._directory = self._directory or tempfile.TemporaryDirectory(prefix="fluidvm-")

    async def stop(self) -> None:
        """The host is in memory as long as something refers to it; this releases it, and the journal stays."""
        SimulatedHost._hosts.pop(self._place(), None)

    def _place(self) -> Path:
        assert self._directory is not None
        return Path(self._directory.name)

    def host(self) -> ClockHost:
        return ClockHost(self._place(), self.clock)

    def spec(self, name: str, **changes: Any) -> DomainSpec:
        fields = {"uuid": str(uuid.uuid4()), "name": name, "vcpus": 1, "max_vcpus": 2, "memory": 128, "max_memory": 192}
        return DomainSpec(**{**fields, **changes})

    async def booted(self, connection: Any, uuid: str) -> None:
        """A simulated guest reacts at once."""

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def connect_other(self) -> Any:
        host = ClockHost(self._place() / "other", self.clock)
        host.state_dir.mkdir(exist_ok=True)
        # With the same delays and faults.
        return await self.driver.connect(self.address, self.options, host)

    async def power_off_behind(self, uuid: str) -> None:
        SimulatedHost.at(self._place(), self.options).stop(uuid)

    async def cut(self, connection: Any) -> None:
        connection.cut("The simulated network broke.")


def driver_of(connection: type[SimulatedConnection]) -> SimulatorDriver:
    """Create a simulator whose connections have this class."""
    driver = SimulatorDriver()
    if connection is SimulatedConnection:
        return driver

    def connect(address: str, options: Any, host: Any) -> Deferred[Any]:
        def become(made: Any) -> Any:
            made.__class__ = connection
            return made

        return SimulatorDriver.connect(driver, address, options, host).addCallback(become)

    driver.connection = connection
    driver.connect = connect
    return driver


globals().update(driver_contract(SimulatorFactory(delay=0.05)))
