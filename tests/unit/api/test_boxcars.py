"""Boxcars (system.multicall) of any shape: one answer or fault for each call, in order, and nothing in the log."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from fluidvm.model.declare import METHODS
from fluidvm.model.faults import FAULTS
from fluidvm.wire import dispatch
from fluidvm.wire.peer import Peer
from fluidvm.wire.unsent import Room
from fluidvm.wire.xmlrpc import parse_call
from tests.support import Client, ServerCase

# Methods that read or change the store answer later, when the reactor runs; hypothesis can't wait for that.
NAMES = sorted(
    name
    for name, method in METHODS.items()
    if name.startswith(
        ("get_vm", "get_user", "list_vms", "list_users", "list_sessions", "ping", "get_session", "get_changes")
    )
    or method.task
)
SCALARS = (
    st.integers(-(2**31), 2**31 - 1)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=6
)
COOKIE = object()


@st.composite
def calls(draw: Any) -> Any:
    """One call in a boxcar: valid, with wrong arguments, or not a call at all."""
    params = st.lists(VALUES, max_size=4).map(lambda values: [COOKIE, *values]) | st.lists(VALUES, max_size=3)
    name = draw(st.sampled_from([*NAMES, "system.multicall", "system.listMethods", "system.methodHelp"]) | st.text())
    shape = draw(st.integers(0, 9))
    if shape == 0:
        return draw(VALUES)
    if shape == 1:
        return {"methodName": draw(VALUES), "params": draw(VALUES)}
    return {"methodName": name, "params": draw(params)}


class HeldTests(ServerCase):
    """The memory that boxcars hold while they run, which can take long because their calls wait."""

    async def waiting(self) -> Any:
        """Return a function that sends a boxcar of two waits and some text, and returns its Deferred."""
        self.there = self.serve()
        self.admin = await self.there.login()
        await self.admin.node(hang=["define_domain"])
        await self.admin.call("create_vm", {"name": "web"})
        ec = await self.admin.call("commit_tasks")

        def send(size: int, client: Client = self.admin) -> Any:
            wait = {"methodName": "wait_for_tasks", "params": [client.cookie, ec, 10.0]}
            body = xmlrpc.client.dumps(([wait, wait, {"x": "y" * size}],), "system.multicall").encode()
            return self.there.server.dispatcher.dispatch(body, Peer(client.address))

        return send

    async def test_together(self) -> None:
        send = await self.waiting()
        dispatcher = self.there.server.dispatcher
        self.patch(dispatcher, "_boxcars", Room(200_000))
        first, small = send(60_000), send(10)
        refused = self.assertRaises(xmlrpc.client.Fault, xmlrpc.client.loads, await send(60_000))
        self.assertEqual((refused.faultCode, "too many large system.multicall requests" in refused.faultString), (503, True))
        other = send(60_000, await self.there.login(address="192.0.2.9"))
        self.assertGreater(dispatcher._boxcars.held, 120_000)
        for _ in range(3):
            await self.there.pass_time(10)
        for boxcar in (first, small, other):
            self.assertEqual(len(xmlrpc.client.loads(await boxcar)[0][0]), 3)  # type: ignore[arg-type]
        self.assertEqual(dispatcher._boxcars.held, 0)

    async def test_memory_of_finished_calls_is_released(self) -> None:
        send = await self.waiting()
        held: list[list[Any]] = []

        def parse(body: bytes) -> tuple[str, list[Any]]:
            name, arguments = parse_call(body)
            held.append(arguments[0])
            return name, arguments

        self.patch(dispatch, "parse_call", parse)
        answer = send(10)
        self.assertEqual(len(held[0]), 2)
        await self.there.pass_time(10)
        self.assertEqual(len(held[0]), 1)
        await self.there.pass_time(10)
        self.assertEqual(held, [[]])
        await answer


class BoxcarTests(ServerCase):
    @staticmethod
    def readable(value: Any) -> Any:
        """Remove the characters that XML can't represent."""
        if isinstance(value, str):
            return "".join(character for character in value if character.isprintable() and ord(character) < 0xD800)
        if isinstance(value, list):
            return [BoxcarTests.readable(member) for member in value]
        if isinstance(value, dict):
            return {BoxcarTests.readable(name): BoxcarTests.readable(member) for name, member in value.items()}
        return value

    async def test_any(self) -> None:
        there = self.serve()
        admin = await there.login()
        pending: list[Any] = []

        def filled(value: Any) -> Any:
            return [admin.cookie if member is COOKIE else self.readable(member) for member in value]

        @settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
        @given(st.lists(calls(), max_size=8))
        def check(given: list[Any]) -> None:
            sent = [
                {**call, "params": filled(call["params"])}
                if isinstance(call, dict) and isinstance(call.get("params"), list)
                else self.readable(call)
                for call in given
            ]
            sent = [self.readable(call) for call in sent]
            body = xmlrpc.client.dumps((sent,), "system.multicall").encode()
            answer: Any = there.server.dispatcher.dispatch(body, Peer("192.0.2.1", False, None))
            self.assertIsInstance(answer, Deferred)
            pending.append((len(sent), answer))
            there.clock.advance(30)

        check()
        for count, answer in pending:
            while not answer.called:
                await there.pass_time(1)
            (answers,), _ = xmlrpc.client.loads(await answer)
            self.assertEqual(len(answers), count)  # type: ignore[arg-type]
            for one in answers:  # type: ignore[union-attr]
                if isinstance(one, dict):
                    self.assertIn(one["faultCode"], set(FAULTS) - {-32603}, one)
                else:
                    self.assertEqual(len(one), 1)  # type: ignore[arg-type]
        self.assertGreater(len(pending), 100)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(there.server._site.unsent.held, 0)
