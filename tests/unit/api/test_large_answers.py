"""Answers over the size limit: refused as a whole, within a boxcar each in its place, and never truncated."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from twisted.internet.defer import Deferred

from fluidvm.model import xmlvalue
from fluidvm.wire.answers import RESERVE
from fluidvm.wire.bounds import SMALL
from fluidvm.wire.peer import Peer
from fluidvm.wire.xmlrpc import frame_answer
from tests.support import Client, ServerCase

VMS = 50
LIMIT = 60_000


class LargeAnswersCase(ServerCase):
    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.there = self.serve()
        self.admin = await self.there.login()
        self.node = await self.admin.node()
        for number in range(VMS):
            await self.admin.call(
                "create_vm", {"name": f"vm{number}", "compute_node": self.node, "description": "x" * 600, "memory": 16}
            )
        self.ec = await self.admin.commit()
        self.patch(xmlvalue, "LONGEST", LIMIT)

    async def refused(self, method: str, *arguments: Any) -> str:
        fault = await self.assertFailure(Deferred.fromCoroutine(self.admin.call(method, *arguments)), xmlrpc.client.Fault)
        self.assertEqual(fault.faultCode, 413)
        return str(fault.faultString)

    def boxcar(self, *calls: tuple[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
        return [{"methodName": name, "params": [self.admin.cookie, *arguments]} for name, arguments in calls]

    async def size(self, calls: Any) -> tuple[int, list[Any]]:
        """Send a boxcar. Returns the number of bytes of the answer, and its content."""
        body = xmlrpc.client.dumps((calls,), "system.multicall").encode()
        answer: Any = self.there.server.dispatcher.dispatch(body, Peer("192.0.2.1", False, None))
        answer = await answer
        return len(answer), xmlrpc.client.loads(answer)[0][0]  # type: ignore[return-value]


class ListTests(LargeAnswersCase):
    async def test_a_list_beyond_the_limit(self) -> None:
        self.assertIn("use limit and after", await self.refused("list_vms"))
        self.assertIn("use limit", await self.refused("list_vms", {"compute_node": self.node}))
        self.patch(xmlvalue, "LONGEST", LIMIT // 3)
        self.assertIn("use limit", await self.refused("list_vms", {"fields": ["id", "description"]}))
        self.assertEqual(len(await self.admin.call("list_vms", {"fields": ["id"]})), VMS)

    async def test_in_parts(self) -> None:
        found: list[int] = []
        while page := await self.admin.call("list_vms", {"limit": 15, "after": found[-1] if found else 0}):
            found += [vm["id"] for vm in page]
        self.assertEqual(found, list(range(1, VMS + 1)))

    async def test_for_plain_users(self) -> None:
        user = await self.admin.user("kim")
        for number in range(VMS):
            await user.call(
                "create_vm", {"name": f"vm{number}", "compute_node": self.node, "description": "x" * 900, "memory": 16}
            )
        await user.commit()
        fault = await self.assertFailure(Deferred.fromCoroutine(user.call("list_vms")), xmlrpc.client.Fault)
        self.assertEqual(fault.faultCode, 413)

    async def test_execution_contexts(self) -> None:
        self.patch(xmlvalue, "LONGEST", LIMIT // 3)
        await self.refused("list_execution_contexts")
        for _ in range(3):
            await self.admin.call("set_vm_name", 1, "other")
            last = await self.admin.commit()
        found = await self.admin.call("list_execution_contexts", {"limit": 2})
        self.assertEqual([context["id"] for context in found], [last, last - 1])
        self.patch(xmlvalue, "LONGEST", 5000)
        await self.refused("get_execution_context", self.ec)
        self.assertEqual(await self.admin.call("get_task_state", last), [0])

    async def test_the_exact_limit(self) -> None:
        self.patch(xmlvalue, "LONGEST", 64 * 2**20)
        body = xmlrpc.client.dumps((self.admin.cookie,), "list_vms").encode()
        answer: Any = self.there.server.dispatcher.dispatch(body, Peer("192.0.2.1", False, None))
        size = len(answer) - len(frame_answer(()))
        self.patch(xmlvalue, "LONGEST", size)
        self.assertEqual(len(await self.admin.call("list_vms")), VMS)
        self.patch(xmlvalue, "LONGEST", size - 1)
        await self.refused("list_vms")


class BoxcarTests(LargeAnswersCase):
    async def test_faults_in_place(self) -> None:
        calls = self.boxcar(
            ("get_vm", (1,)),
            ("list_vms", ({"limit": 20},)),
            ("list_vms", ({"limit": 20},)),
            ("list_vms", ()),
            ("get_vm", (2,)),
            ("list_vms", ({"limit": 20},)),
            ("get_vm", (9999,)),
            ("list_vms", ({"limit": 3},)),
        )
        size, answers = await self.size(calls)
        self.assertLess(size, LIMIT + 200)
        codes = [answer["faultCode"] if isinstance(answer, dict) else len(answer[0]) for answer in answers]
        self.assertEqual(codes[1:4] + codes[5:], [20, 413, 413, 413, 404, 3])
        self.assertEqual([answers[place][0]["id"] for place in (0, 4)], [1, 2])
        self.assertIn("send this call separately", answers[2]["faultString"])

    async def test_what_tasks_return_is_never_lost(self) -> None:
        tasks = [("set_vm_name", (1, "other"))] * 20
        listing = ("list_vms", ({"limit": 8},))
        size, answers = await self.size(self.boxcar(*[listing] * 8, *tasks, listing, ("commit_tasks", ())))
        self.assertLess(size, LIMIT + 200)
        self.assertIn(413, [answer["faultCode"] for answer in answers if isinstance(answer, dict)])
        self.assertEqual(answers[8:28], [[1]] * 20)
        self.assertGreater(answers[-1][0], self.ec)

    async def test_many_faults(self) -> None:
        self.patch(xmlvalue, "LONGEST", 300 * RESERVE)
        calls = self.boxcar(*[("list_vms", ({"limit": 5},))] * 80, *[("no_" + "x" * 250, ())] * 100)
        size, answers = await self.size(calls)
        self.assertLess(size, 300 * RESERVE + 200)
        self.assertEqual([answer["faultCode"] for answer in answers[80:]], [-32601] * 100)

    async def test_a_long_boxcar_does_not_delay_other_calls(self) -> None:
        """Calls that take long together don't delay other clients until all are done."""
        clock = self.there.clock
        seconds = clock.seconds
        calls = iter(range(1000))
        clock.seconds = lambda: seconds() + next(calls) * 0.015  # type: ignore[method-assign]
        body = xmlrpc.client.dumps((self.boxcar(*[("get_vm", (1,))] * 6),), "system.multicall").encode()
        answer: Any = self.there.server.dispatcher.dispatch(body, Peer("192.0.2.1", False, None))
        self.assertFalse(answer.called)
        clock.seconds = seconds  # type: ignore[method-assign]
        clock.pump([20] * 10)
        self.assertEqual(len(xmlrpc.client.loads(await answer)[0][0]), 6)  # type: ignore[arg-type]


class RoomTests(LargeAnswersCase):
    """When other answers use all the memory that is available for answers."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.patch(xmlvalue, "LONGEST", 64 * 2**20)
        self.unsent = self.there.server._site.unsent
        self.unsent.take("198.51.100.1", 256 * 2**20)

    def ask(self, client: Client, method: str, *arguments: Any) -> Any:
        return Deferred.fromCoroutine(client.call(method, *arguments))

    async def test_large_ones_wait(self) -> None:
        waiting = self.ask(self.admin, "list_vms")
        self.assertFalse(waiting.called)
        self.assertGreater(self.unsent.waiting, SMALL)
        self.assertEqual((await self.admin.call("get_vm", 1))["id"], 1)
        self.assertEqual(len(await self.admin.call("list_vms", {"limit": 3})), 3)
        self.unsent.give("198.51.100.1", 2**20)
        self.assertEqual(len(await waiting), VMS)
        self.assertEqual(self.unsent.waiting, 0)

    async def test_large_ones_do_not_wait_forever(self) -> None:
        waiting = self.ask(self.admin, "list_vms")
        boxcar = self.ask(self.admin, "get_session")
        await boxcar
        self.there.clock.advance(31)
        fault = await self.assertFailure(waiting, xmlrpc.client.Fault)
        self.assertEqual(fault.faultCode, 503)
        self.assertIn("use limit", fault.faultString)
        self.assertEqual(self.unsent.waiting, 0)

    async def test_boxcars(self) -> None:
        """They wait only once, and no id of a task is lost."""
        calls = self.boxcar(*[("list_vms", ())] * 3, *[("set_vm_name", (1, "other"))] * 300, ("list_vms", ()))
        answering = Deferred.fromCoroutine(self.size(calls))
        self.assertFalse(answering.called)
        self.there.clock.advance(31)
        _, answers = await answering
        self.assertEqual([answer["faultCode"] for answer in answers[:3] + answers[-1:]], [503] * 4)
        self.assertEqual(answers[3:303], [[1]] * 300)
        self.assertEqual((self.unsent.waiting, self.unsent.held), (0, 256 * 2**20))

    async def test_a_boxcar_counts_while_it_runs(self) -> None:
        self.unsent.give("198.51.100.1", 256 * 2**20)
        await self.admin.call("set_vm_name", 1, "other")
        ec = await self.admin.call("commit_tasks")
        calls = self.boxcar(("list_vms", ()), ("wait_for_tasks", (ec, 20)))
        answering = Deferred.fromCoroutine(self.size(calls))
        held = self.unsent.held
        self.assertGreater(held, 600 * VMS)
        while not answering.called:
            await self.there.pass_time(0.25)
        await answering
        self.assertEqual(self.unsent.held, 0)
