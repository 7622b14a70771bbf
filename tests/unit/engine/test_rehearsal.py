"""What C{plan_tasks} foretells comes: random batches in a random fleet, planned, and committed with nobody else at work."""

from __future__ import annotations

import os
import re
import xmlrpc.client
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.drivers.simulator import SimulatorDriver
from fluidvm.engine.job import Job
from tests.databases import ENGINE
from tests.inline import InlineServer
from tests.unit.engine.fleet import ACTORS, TASKS, Fleet

EXAMPLES = int(os.environ.get("FLUIDVM_PLANS", 20 if ENGINE == "sqlite" else 6))
BATCHES, LONGEST = 5, 8
UNKNOWN = "What compute node "
"""What is foretold of a node that isn't there yet begins so."""


def plain(error: str) -> str:
    """An error without what is drawn by lot each time: volumes' names and UUIDs."""
    return re.sub(r"[0-9a-f]{8,12}", "*", error)


class Rehearsal:
    """One example: a fleet, and batches in it, each planned and then committed."""

    def __init__(self, server: InlineServer, choose: Callable[[int], int]) -> None:
        self._server = server
        self.fleet = Fleet(server, choose)
        self._asked: dict[Any, int] = {}

    def run(self) -> None:
        connect = self.fleet.connect(SimulatorDriver.connect)
        with patch.object(SimulatorDriver, "connect", connect), patch.object(Job, "connection", self._watched()):
            self.fleet.build()
            for _ in range(BATCHES):
                for _ in range(self.fleet.one((0, 1, 2))):
                    self.fleet.meddle()
                self._batch()

    def _watched(self) -> Any:
        """Remember which compute node a task has asked for last."""
        asked, original = self._asked, Job.connection

        async def connection(job: Job, node: int, *ability: Any) -> Any:
            asked[job._key] = node
            return await original(job, node, *ability)

        return connection

    def _batch(self) -> None:
        try:
            cookie = self._server.login(self.fleet.one(ACTORS))
        except xmlrpc.client.Fault:
            return  # who it is is gone, or disabled
        calls: list[tuple[Any, ...]] = []
        for _ in range(3 * LONGEST):
            if len(calls) == LONGEST:
                break
            call = self.fleet.random_call()
            try:
                self.fleet.queue(cookie, *call)
            except xmlrpc.client.Fault as fault:
                assert fault.faultCode in (401, 403, 404, 409, -32602), (call, fault)
            else:
                calls.append(call)
        before = self.fleet.all()
        foretold = self._server.call("plan_tasks", cookie)
        assert self.fleet.all() == before, "a plan has changed something"
        ec = self.fleet.commit(cookie)
        for call, planned, task in zip(calls, foretold, self.fleet.context(ec).tasks, strict=True):
            key = (ec, planned["task"] - 1)
            node = call[1] if call[0] == "refresh_compute_node" else self._asked.get(key)
            words = plain(planned["error"])
            came = (task.row.code, node, words if words.startswith(UNKNOWN) else plain(task.row.error))
            assert (planned["code"], planned.get("node"), words) == came, (
                f"{call}: foretold {planned}, came {came}: {task.row.error!r}; all: {calls}"
            )


class RehearsalTests(SynchronousTestCase):
    def test_what_is_foretold_comes(self) -> None:
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def try_some(data: st.DataObject) -> None:
            server = InlineServer()
            try:
                Rehearsal(server, lambda most: data.draw(st.integers(0, most - 1))).run()
            finally:
                server.stop()

        try_some()

    def test_every_task_is_among_them(self) -> None:
        self.assertEqual([name for name in TASKS if not hasattr(Fleet, f"_{name}")], [])
