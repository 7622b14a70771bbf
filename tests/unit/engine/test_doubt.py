"""Commits with an unknown outcome: they are applied when it is known that they were stored, and only once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from fluidvm.model.faults import Unavailable
from fluidvm.store.database import Database, OutcomeUnknown
from tests.support import Client, Running, ServerCase


class DoubtTests(ServerCase):
    """The outcome of a transaction is withheld from the engine. The store's own tests are in C{tests.unit.store}."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.real = Database.run
        self.held: list[tuple[Callable[[], Deferred[Any]], Deferred[Any]]] = []
        self.serving = self.serve()
        self.admin = await self.serving.login()
        await self.admin.node()

    def hold(self, wanted: str) -> None:
        """Withhold the outcome of the next transaction that writes an audit line for an event."""

        def run(database: Database, function: Any, *args: Any) -> Deferred[Any]:
            also = args[1] if function.__name__ == "_transaction" else ()
            lines = [line for write, (*given,) in also if write.__name__ == "add" for line in given[0:1]]
            if not self.held and any(isinstance(line, list) and line[-1]["event"] == wanted for line in lines):
                outcome: Deferred[Any] = Deferred()
                self.held.append((lambda: self.real(database, function, *args), outcome))
                return fail(OutcomeUnknown("The store went away.", outcome))
            return self.real(database, function, *args)

        self.patch(Database, "run", run)

    async def settle(self, kept: bool) -> None:
        """Report whether the transaction was stored."""
        ((again, outcome),) = self.held
        outcome.callback(await again() if kept else Failure(Unavailable("The store failed: nothing was stored.")))
        outcome.addErrback(lambda failure: None)
        await self.serving.pass_time(1)

    async def commit(self) -> str:
        await self.admin.call("create_user", "alice", "a good password")
        self.hold("commit")
        words = await self.refused(503, self.admin.call("commit_tasks"))
        self.assertEqual(await self.admin.call("get_pending_tasks"), [])
        return words

    async def names(self, client: Client) -> list[str]:
        return [user["name"] for user in await client.call("list_users")]

    async def test_a_commit_that_was_stored_runs(self) -> None:
        self.assertIn("list_execution_contexts", await self.commit())
        contexts = len(await self.admin.call("list_execution_contexts"))
        await self.settle(True)
        listed = await self.admin.call("list_execution_contexts")
        self.assertEqual(len(listed), contexts + 1)
        await self.admin.finish(listed[0]["id"])
        self.assertEqual(await self.admin.call("get_errors", listed[0]["id"]), [""])
        self.assertEqual(await self.names(self.admin), ["admin", "alice"])
        self.assertEqual(await self.admin.call("get_pending_tasks"), [])

    async def test_a_commit_that_was_not_stored_is_pending_again(self) -> None:
        await self.commit()
        contexts = len(await self.admin.call("list_execution_contexts"))
        await self.settle(False)
        self.assertEqual(len(await self.admin.call("list_execution_contexts")), contexts)
        self.assertEqual([task["method"] for task in await self.admin.call("get_pending_tasks")], ["create_user"])
        await self.admin.commit()
        self.assertEqual(await self.names(self.admin), ["admin", "alice"])

    async def outcome(self, kept: bool) -> Running:
        vm = await self.admin.call("create_vm", {"name": "web"})
        self.hold("outcome")
        ec = await self.admin.call("commit_tasks")
        while not self.held:
            await self.serving.pass_time(0.25)
        await self.serving.pass_time(30)
        self.assertEqual(await self.admin.call("get_task_state", ec), [1], "nothing is told before it is known")
        await self.settle(kept)
        await self.admin.finish(ec)
        self.assertEqual(await self.admin.call("get_errors", ec), [""])
        self.assertEqual((await self.admin.call("get_vm", vm))["state"], "stopped")
        lines = await self.admin.call("list_audit", {"execution_context": ec, "event": "outcome"})
        self.assertEqual(len(lines), 1)
        return self.serving

    async def test_an_outcome_that_was_stored_is_not_stored_twice(self) -> None:
        await self.outcome(True)

    async def test_an_outcome_that_was_not_stored_is_stored_again(self) -> None:
        await self.outcome(False)
