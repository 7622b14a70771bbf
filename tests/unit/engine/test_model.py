"""
Compares sessions, pending tasks, contexts and claims with a small model: hypothesis tries sequences of client actions.

The whole server runs on one Clock without a thread: the store and the password hashes answer at once.
"""

from __future__ import annotations

import xmlrpc.client
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.drivers.simulator.host import SimulatedHost
from tests.databases import ENGINE
from tests.inline import InlineServer
from tests.support import PASSWORD

VERBS = ("start_vm", "stop_vm", "pause_vm", "resume_vm", "shutdown_vm")
VMS = 2
TASKS = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, VMS - 1)), min_size=1, max_size=4)
TIMEOUT = 30.0
EXAMPLES = 40 if ENGINE == "sqlite" else 10
"""These tests are about the engine, not the store, and PostgreSQL takes three times as long for each example."""


@dataclass
class Session:
    """The model of a session."""

    cookie: int
    expires: float
    pending: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Committed:
    """The model of a context."""

    ec: int
    tasks: list[tuple[str, int]]
    states: list[int]
    progress: list[int]


class ServerMachine(RuleBasedStateMachine):
    """The actions of clients, in any order."""

    sessions = Bundle("sessions")
    contexts = Bundle("contexts")

    def __init__(self) -> None:
        super().__init__()
        self.server = InlineServer("--session-timeout", str(int(TIMEOUT)))
        self.running = self.server.running
        self.all: list[Committed] = []
        admin = self.login()
        self.call("add_compute_node", admin.cookie, "node1", "simulator", "", {"delay": 1.0})  # type: ignore[union-attr]
        self.vms = [self.call("create_vm", admin.cookie, {"name": f"vm{number}"}) for number in range(VMS)]  # type: ignore[union-attr]
        ec = self.call("commit_tasks", admin.cookie)  # type: ignore[union-attr]
        for _ in range(40):
            self.running.clock.advance(0.5)
        assert self.call("get_errors", self.login().cookie, ec) == [""] * (VMS + 1)  # type: ignore[union-attr]

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method; it must answer without waiting."""
        return self.server.call(method, *arguments)

    def refused(self, code: int, method: str, *arguments: Any) -> None:
        """Check that a call is answered with a fault."""
        try:
            self.call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            assert fault.faultCode == code, fault
        else:
            raise AssertionError(f"{method} was answered")

    def alive(self, session: Session) -> bool:
        """Whether a session is alive in the model; checks that the server agrees."""
        if self.running.clock.seconds() < session.expires:
            return True
        self.refused(401, "get_session", session.cookie)
        return False

    @initialize(target=sessions)
    def first_login(self) -> Session:
        return self.login()  # type: ignore[return-value]

    @rule(target=sessions)
    def login(self) -> Session:
        cookie = self.call("authenticate", "admin", PASSWORD)
        return Session(cookie, self.running.clock.seconds() + TIMEOUT)

    @precondition(lambda self: self.all)
    @rule(session=consumes(sessions))
    def logout(self, session: Session) -> None:
        if self.alive(session):
            self.call("logout", session.cookie)
        self.refused(401, "ping", session.cookie)

    @rule(session=sessions)
    def ping(self, session: Session) -> None:
        if self.alive(session):
            self.call("ping", session.cookie)
            assert self.call("ping", session.cookie) == []
            session.expires = self.running.clock.seconds() + TIMEOUT

    @rule(session=sessions, tasks=TASKS)
    def queue(self, session: Session, tasks: list[tuple[str, int]]) -> None:
        if self.alive(session):
            for verb, vm in tasks:
                assert self.call(verb, session.cookie, self.vms[vm]) == self.vms[vm]
                session.pending.append((verb, self.vms[vm]))

    @rule(target=contexts, session=sessions, tasks=TASKS, on_error=st.sampled_from(["continue", "stop"]))
    def queue_and_commit(self, session: Session, tasks: list[tuple[str, int]], on_error: str) -> Committed | None:
        self.queue(session, tasks)
        return self.commit(session, on_error)  # type: ignore[return-value]

    @precondition(lambda self: self.all)
    @rule(session=sessions)
    def look_at_pending(self, session: Session) -> None:
        if self.alive(session):
            pending = self.call("get_pending_tasks", session.cookie)
            assert [(task["method"], task["target"]) for task in pending] == session.pending

    @rule(session=sessions)
    def discard(self, session: Session) -> None:
        if self.alive(session):
            assert self.call("discard_tasks", session.cookie) == len(session.pending)
            session.pending = []

    @rule(session=sessions)
    def plan(self, session: Session) -> None:
        """A plan changes nothing; otherwise the invariants and the other rules would fail."""
        if self.alive(session):
            before = self.call("list_vms", session.cookie)
            assert len(self.call("plan_tasks", session.cookie)) == len(session.pending)
            assert self.call("list_vms", session.cookie) == before

    @rule(target=contexts, session=sessions, on_error=st.sampled_from(["continue", "stop"]))
    def commit(self, session: Session, on_error: str) -> Committed | None:
        if not self.alive(session):
            return None
        ec = self.call("commit_tasks", session.cookie, {"on_error": on_error})
        count = len(session.pending)
        committed = Committed(ec, session.pending, [1] * count, [0] * count)
        session.pending = []
        self.all.append(committed)
        return committed

    @rule(session=sessions, committed=contexts)
    def cancel(self, session: Session, committed: Committed | None) -> None:
        if committed is not None and self.alive(session):
            before = self.call("get_execution_context", session.cookie, committed.ec)
            count = self.call("cancel_tasks", session.cookie, committed.ec)
            after = self.call("get_execution_context", session.cookie, committed.ec)
            ended = sum(was - now for was, now in zip(before["state"], after["state"], strict=True))
            assert ended <= count <= sum(before["state"])
            assert sum(after["state"]) <= 1, "more than the task under way is left"

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 7.0]))
    def time_passes(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.running.clock.advance(0.1)

    @invariant()
    def contexts_go_forward(self) -> None:
        cookie = self.call("authenticate", "admin", PASSWORD)
        under_way: list[int] = []
        for committed in self.all:
            found = self.call("get_execution_context", cookie, committed.ec)
            assert [(task["method"], task["target"]) for task in found["tasks"]] == committed.tasks
            for before, after in zip(committed.states, found["state"], strict=True):
                assert after <= before, "a complete task is under way again"
            for before, after in zip(committed.progress, found["progress"], strict=True):
                assert after >= before, "progress goes down"
            committed.states, committed.progress = found["state"], found["progress"]
            begun = [place for place, progress in enumerate(found["progress"]) if 0 < progress < 100]
            assert len(begun) <= 1, "two tasks of a context at once"
            for place in begun:
                assert not any(found["state"][:place]), "a task began before the one before it had ended"
                under_way.append(found["tasks"][place]["target"])
            if not any(found["state"]):
                assert "finished" in found
                assert found["progress"] == [100] * len(committed.tasks)
        assert len(set(under_way)) == len(under_way), "two tasks at one VM"
        self.call("logout", cookie)

    def teardown(self) -> None:
        try:
            for _ in range(600):
                if not any(any(committed.states) for committed in self.all):
                    break
                self.running.clock.advance(1.0)
                self.contexts_go_forward()
            assert not any(any(committed.states) for committed in self.all), "a context is stuck"
            cookie = self.login().cookie  # type: ignore[union-attr]
            (host,) = self.hosts()
            real = {domain.uuid: str(domain.state) for domain in host.domains()}
            assert {vm["uuid"]: vm["state"] for vm in self.call("list_vms", cookie)} == real
        finally:
            self.server.stop()

    def hosts(self) -> list[Any]:
        return [SimulatedHost.at(path.parent, {}) for path in self.server.directory.rglob("simulator.journal")]


class ModelTests(SynchronousTestCase):
    def test_any_sequence(self) -> None:
        test = ServerMachine.TestCase
        test.settings = settings(
            max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        )
        test().runTest()
