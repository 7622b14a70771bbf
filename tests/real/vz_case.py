"""Tests of the OpenVZ driver on a node of the stand-ins, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fluidvm.driver import DomainSpec
from fluidvm.drivers.openvz.driver import OpenVzConnection, OpenVzDriver
from tests.fakes.vz.node import FakeNode
from tests.real.vz_factory import VzThreadHost, container_spec, node_options


class VzCase(TestCase):
    """
    Each test has nodes of its own.

    @ivar dialect: of the nodes' tools.
    """

    dialect = 4

    async def setUp(self) -> None:
        self.node = self.new_node("node")
        self.connection = await self.connect()

    def new_node(self, name: str, **settings: object) -> FakeNode:
        return FakeNode(Path(self.mktemp()) / name, self.dialect, **settings)

    async def connect(self, node: FakeNode | None = None, clock: Any = reactor, **options: Any) -> OpenVzConnection:
        """Open a connection; it is closed at the end."""
        host = VzThreadHost(Path(self.mktemp()))
        host.clock = clock
        self.addCleanup(host.stop)
        connection = await OpenVzDriver().connect("", node_options(node or self.node) | options, host)
        self.addCleanup(connection.close)
        return connection

    async def defined(self, name: str = "web1", **changes: Any) -> DomainSpec:
        spec = container_spec(name, **changes)
        await self.connection.define_domain(spec)
        return spec

    async def started(self, name: str = "web1", **changes: Any) -> DomainSpec:
        spec = await self.defined(name, **changes)
        await self.connection.start(spec.uuid)
        return spec

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait, as long as trial's time-out."""
        while not condition():
            await deferLater(reactor, 0.02, lambda: None)

    def conf(self, uuid: str) -> str:
        return self.node.conf(self.node.ctid(uuid))


def in_both_dialects(case: type[VzCase], names: dict[str, Any]) -> None:
    """Put a case for each dialect into a module, instead of the one."""
    del names[case.__name__]
    for dialect in (4, 7):
        name = f"{case.__name__}{dialect}"
        fields = {"dialect": dialect, "__module__": case.__module__, "__doc__": case.__doc__}
        names[name] = type(name, (case,), fields)
