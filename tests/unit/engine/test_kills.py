"""
Servers are killed between any two durable writes, while tasks evacuate compute nodes. All tasks must still end.

There are no threads and processes, and one Clock, so each seed always has the same result.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import xmlrpc.client
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.drivers.simulator.host import SimulatedHost
from fluidvm.drivers.simulator.journal import Journal
from fluidvm.wire.peer import Peer
from tests.databases import only
from tests.inline import InlineDatabase, without_threads
from tests.support import PASSWORD, Running, ServerCase

SEEDS = range(int(os.environ.get("FLUIDVM_KILL_SEED", "0")), int(os.environ.get("FLUIDVM_KILL_SEEDS", "4")))
KILLS = 8
"""For each seed."""
VERBS = ("start_vm", "start_vm", "start_vm", "stop_vm", "shutdown_vm", "delete_vm", "pause_vm", "save_vm", "restore_vm")
NODES = 3
STEP = 0.05
"""Seconds by which the clock is advanced at a time."""
STORING = 0.002
"""Seconds until the store reports what it has already stored."""
LONGEST = 1200.0
"""Seconds of the clock within which all tasks must end; a running one takes a few."""


class Killed(BaseException):
    """The server was killed: its later output is ignored."""


class Life:
    """
    One server process, from its start until it is killed.

    @param state: its state directory.
    @param until: the number of durable writes after which it is killed; C{None} for never.
    @param after: the directory to which the state is copied when it is killed.
    """

    def __init__(self, case: ServerCase, state: Path, until: int | None, after: Path, options: list[str]) -> None:
        self.state = state
        self._until = until
        self._after = after
        self._count = 0
        case.directory = state.parent
        self.running = Running(case.settings("--database", f"sqlite:///{state}/fluidvm.db", *options))
        self.cookie = 0

    @property
    def clock(self) -> Clock:
        return self.running.clock

    def kept(self, place: object) -> None:
        """Count a durable write. After the last one, copy the state."""
        if str(self.state) in str(place):
            self._count += 1
            if self._count == self._until:
                shutil.copytree(self.state, self._after)

    def turn(self) -> None:
        """Let time pass. @raise Killed: the server was killed meanwhile."""
        if self._until is not None and self._count >= self._until:
            raise Killed
        self.clock.advance(STEP)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method with the cookie."""
        if not self.cookie and method != "authenticate":
            self.cookie = self.call("authenticate", "admin", PASSWORD)
        body = xmlrpc.client.dumps((self.cookie, *arguments) if self.cookie else arguments, method).encode()
        answer: Any = self.running.server.dispatcher.dispatch(body, Peer(address="192.0.2.1"))
        if isinstance(answer, Deferred):
            outcome: list[Any] = []
            answer.addBoth(outcome.append)
            while not outcome:
                self.turn()
            answer = outcome[0]
        return xmlrpc.client.loads(answer, use_builtin_types=True)[0][0]

    def end(self) -> None:
        """Stop it, so that it closes its files. What it writes meanwhile is ignored."""
        self._until = None
        stopping = self.running.server.stopService()
        while not stopping.called:
            self.clock.advance(1.0)


class Walk:
    """The walk of one seed: several lives, one after the other."""

    def __init__(self, case: ServerCase, directory: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.case = case
        self.directory = directory
        self.life: Life | None = None
        self.committed: list[int] = []
        self._names = 0
        self._options = ["--tasks-per-node", str(self.chance.choice([1, 2, 4]))]

    def begin(self, number: int, until: int | None) -> Life:
        """Start the next server."""
        place = self.directory / str(number)
        place.mkdir(exist_ok=True)
        (place / "password").write_text(PASSWORD)
        after = self.directory / str(number + 1)
        if until is not None:
            after.mkdir()
        self.life = Life(self.case, place / "state", until, after / "state", self._options)
        self.life.running.server.startService()
        return self.life

    def run(self) -> None:
        """Run the whole walk."""
        life = self.begin(0, None)
        for node in range(NODES):
            life.call("add_compute_node", f"node{node}", "simulator", "", {"delay": self.chance.choice([0.0, 0.01, 0.3])})
        self.finish(life, [life.call("commit_tasks")])
        for _ in range(6):
            disks = [{"size": 1}] * self.chance.randint(0, 1)
            life.call("create_vm", {"name": self.name(), "compute_node": 1, "memory": 64, "disks": disks})
        self.finish(life, [life.call("commit_tasks")])
        shutil.copytree(life.state, self.directory / "1" / "state")
        life.end()
        for number in range(1, KILLS + 1):
            life = self.begin(number, self.chance.randint(1, 90))
            with contextlib.suppress(Killed):
                while True:
                    self.work(life)
            life.end()
            shutil.rmtree(life.state.parent)
        life = self.begin(KILLS + 1, None)
        self.finish(life, [context["id"] for context in life.call("list_execution_contexts")])
        self.look(life)
        life.end()

    def name(self) -> str:
        self._names += 1
        return f"vm{self._names}"

    def work(self, life: Life) -> None:
        """Commit random tasks, and wait a little."""
        for _ in range(self.chance.randint(0, 3)):
            with contextlib.suppress(xmlrpc.client.Fault):
                self.task(life)
        number = life.call("commit_tasks")
        if self.chance.random() < 0.1:
            life.call("cancel_tasks", number)
        for _ in range(self.chance.choice([0, 0, 1, 3, 20])):
            life.turn()

    def task(self, life: Life) -> None:
        """Queue a random task."""
        vms = [vm["id"] for vm in life.call("list_vms", {"fields": ["id"]})]
        node = self.chance.choice([1, 1, 2, 3])
        chance = self.chance.random()
        if chance < 0.45:
            life.call("evacuate_compute_node", node)
            if self.chance.random() < 0.7:
                life.call("set_compute_node_mode", node, "active")
        elif chance < 0.5:
            life.call("set_compute_node_mode", node, self.chance.choice(["active", "active", "cordoned", "maintenance"]))
        elif chance < 0.6 or not vms:
            disks = [{"size": 1}] * self.chance.randint(0, 2)
            life.call("create_vm", {"name": self.name(), "memory": 64, "disks": disks})
        elif chance < 0.75:
            life.call("migrate_vm", self.chance.choice(vms), node, {"live": True, "copy_storage": True})
        else:
            verb = self.chance.choice(VERBS)
            life.call(verb, self.chance.choice(vms))

    def finish(self, life: Life, contexts: list[int]) -> None:
        """Wait until contexts have ended."""
        end = life.clock.seconds() + LONGEST
        for number in contexts:
            while any(life.call("get_task_state", number)):
                if life.clock.seconds() > end:
                    raise AssertionError(f"it doesn't end: {life.call('get_execution_context', number)}")
                life.turn()

    def look(self, life: Life) -> None:
        """Check that every VM and every volume exists once, on the node that the server reports."""
        vms = life.call("list_vms")
        disks = life.call("list_disks")
        contexts = life.call("list_execution_contexts", {"limit": 1000})
        story = "\n".join(
            f"EC {context['id']} {task['method']} {task['target']}: {error or 'done'}"
            for context in reversed(contexts)
            for task, error in zip(context["tasks"], context["errors"], strict=True)
        )
        for node in range(1, NODES + 1):
            host = SimulatedHost.at(life.state / f"node-{node}", {})
            said = {vm["uuid"]: vm["state"] for vm in vms if vm["compute_node"] == node}
            self.case.assertEqual({one.uuid: str(one.state) for one in host.domains()}, said, story)
            paths = sorted(disk["path"] for disk in disks if disk["compute_node"] == node)
            self.case.assertEqual(sorted(volume.path for volume in host.all_volumes()), paths, story)
        self.case.assertNotIn("incident", story)


class KillTests(SynchronousTestCase):
    skip = only("sqlite")

    def test_everything_ends(self) -> None:
        walks: list[Walk] = []

        class SlowDatabase(InlineDatabase):
            """Reports results a little later, as a thread does."""

            def run(self, function: Any, *args: Any) -> Any:
                done: Deferred[Any] = super().run(function, *args)
                life = walks[-1].life
                assert life is not None
                life.kept(self._url)

                def later(result: Any) -> Any:
                    return deferLater(life.clock, STORING, lambda: result)

                return done.addBoth(later)

        real = Journal.write

        def write(journal: Journal, kind: str, key: str, value: Any) -> None:
            real(journal, kind, key, value)
            life = walks[-1].life
            assert life is not None
            life.kept(journal._path)

        with ExitStack() as kept:
            without_threads(kept, SlowDatabase)
            kept.enter_context(patch.object(Journal, "write", write))
            for seed in SEEDS:
                directory = Path(self.mktemp())
                directory.mkdir(parents=True)
                walks.append(Walk(ServerCase(), directory.absolute(), seed))
                try:
                    walks[-1].run()
                except Exception as error:
                    raise AssertionError(f"seed {seed}: {error}") from error
                shutil.rmtree(directory)
