from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from fluidvm.api import tasks
from tests.support import PASSWORD, Client, ServerCase


class TaskTests(ServerCase):
    async def client(self) -> Client:
        return await self.serve().login()

    async def test_nothing_happens_before_commit(self) -> None:
        admin = await self.client()
        user = await admin.call("create_user", "alice", PASSWORD)
        pending = await admin.call("get_pending_tasks")
        self.assertEqual(pending, [{"task": 1, "method": "create_user", "target_type": "user", "target": user}])
        await self.refused(404, admin.call("get_user", user))
        self.assertEqual(await admin.call("discard_tasks"), 1)
        self.assertEqual(await admin.call("discard_tasks"), 0)

    async def test_nothing_pending(self) -> None:
        admin = await self.client()
        ec = await admin.call("commit_tasks")
        context = await admin.call("get_execution_context", ec)
        self.assertEqual((context["state"], context["errors"], context["tasks"]), ([], [], []))
        self.assertIn("finished", context)
        self.assertIs(await admin.call("wait_for_tasks", ec, 0), True)

    async def test_listing_contexts_does_not_block_the_reactor(self) -> None:
        running = self.serve()
        admin = await running.login()
        ecs = [await admin.call("commit_tasks") for _ in range(3)]
        turns: list[float] = []
        self.patch(tasks, "deferLater", lambda clock, delay, called: turns.append(delay) or succeed(None))
        self.assertEqual(len(await admin.call("list_execution_contexts")), len(ecs))
        self.assertEqual(turns, [])
        self.patch(tasks, "SLICE", -1.0)
        self.assertEqual(len(await admin.call("list_execution_contexts")), len(ecs))
        self.assertEqual(turns, [0, 0, 0])

    async def test_a_failed_task_does_not_stop_the_next(self) -> None:
        admin = await self.client()
        await admin.node(delay=1.0)
        vm = await self.made(admin, "web")
        for method in ("pause_vm", "start_vm"):
            await admin.call(method, vm)
        ec = await admin.call("commit_tasks", {"on_error": "continue"})
        await admin.finish(ec)
        errors = await admin.call("get_errors", ec)
        self.assertIn("stopped", errors[0])
        self.assertEqual(errors[1], "")
        context = await admin.call("get_execution_context", ec)
        self.assertEqual([task["code"] for task in context["tasks"]], [409, 0])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")

    async def test_on_error_stop_skips_the_rest(self) -> None:
        admin = await self.client()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "web"})
        for method in ("start_vm", "resume_vm", "pause_vm", "resume_vm"):
            await admin.call(method, vm)
        await admin.call("create_user", "admin2", PASSWORD)
        await admin.call("delete_vm", vm)
        await admin.call("stop_vm", vm)
        ec = await admin.commit(on_error="stop")
        errors = await admin.call("get_errors", ec)
        self.assertEqual(errors[:5], [""] * 5)
        self.assertIn("stop it first", errors[5])
        self.assertEqual(errors[6], "skipped: task 6 failed")
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")

    async def test_one_after_another(self) -> None:
        admin = await self.client()
        await admin.node(delay=1.0)
        vm = await self.made(admin, "web")
        await admin.call("start_vm", vm)
        await admin.call("stop_vm", vm)
        ec = await admin.call("commit_tasks")
        running = admin.running
        seen: list[Any] = []
        while not seen or any(seen[-1]):
            seen.append(await admin.call("get_task_state", ec))
            progress = await admin.call("get_task_progress", ec)
            self.assertTrue(progress[0] == 100 or progress[1] == 0, progress)
            await running.pass_time(0.25)
        self.assertIn([0, 1], seen)
        self.assertNotIn([1, 0], seen)

    async def test_wait_for_tasks(self) -> None:
        admin = await self.client()
        await admin.node(delay=1.0)
        vm = await self.made(admin, "web")
        await admin.call("start_vm", vm)
        ec = await admin.call("commit_tasks")
        self.assertIs(await admin.call("wait_for_tasks", ec, 0), False)
        short = Deferred.fromCoroutine(admin.call("wait_for_tasks", ec, 0.5))
        long = Deferred.fromCoroutine(admin.call("wait_for_tasks", ec, 25))
        while not short.called:
            await admin.running.pass_time(0.1)
        self.assertIs(await short, False)
        self.assertFalse(long.called)
        while not long.called:
            await admin.running.pass_time(0.1)
        self.assertIs(await long, True)

    async def test_contexts_are_the_users_with_any_cookie(self) -> None:
        admin = await self.client()
        alice, bob = await admin.user("alice"), await admin.user("bob")
        auditor = await admin.user("watcher", "auditor")
        ec = await alice.call("commit_tasks")
        for reader in (alice, await alice.running.login("alice"), admin, auditor):
            self.assertEqual((await reader.call("get_execution_context", ec))["id"], ec)
        for method in ("get_task_state", "get_errors", "get_results", "get_status", "get_execution_context"):
            await self.refused(404, bob.call(method, ec))
        self.assertEqual([context["id"] for context in await alice.call("list_execution_contexts")], [ec])
        self.assertEqual(await bob.call("list_execution_contexts"), [])

    async def test_list_newest_first_in_pages(self) -> None:
        admin = await self.client()
        made = [await admin.call("commit_tasks") for _ in range(5)]
        listed = await admin.call("list_execution_contexts", {"fields": ["id"]})
        self.assertEqual(listed, [{"id": ec} for ec in reversed(made)])
        page = await admin.call("list_execution_contexts", {"fields": ["id"], "limit": 2, "after": made[3]})
        self.assertEqual(page, [{"id": made[2]}, {"id": made[1]}])
        self.assertEqual(await admin.call("list_execution_contexts", {"on_error": "stop"}), [])

    async def test_only_tasks_on_busy_objects_wait(self) -> None:
        admin = await self.client()
        await admin.node(delay=1.0)
        one, two = await self.made(admin, "one"), await self.made(admin, "two")
        contexts = []
        for vm in (one, one, two):
            await admin.call("start_vm", vm)
            contexts.append(await admin.call("commit_tasks"))
        states: dict[int, Any] = {}
        while await admin.call("get_task_state", contexts[1]) == [1]:
            for ec in contexts:
                if await admin.call("get_task_progress", ec) == [100]:
                    states.setdefault(ec, len(states))
            await admin.running.pass_time(0.1)
        self.assertEqual(set(states), {contexts[0], contexts[2]})

    async def test_passwords_are_never_stored_or_shown(self) -> None:
        admin = await self.client()
        await admin.do("create_user", "alice", "hunter2-hunter2")
        await admin.call("create_user", "bob", "hunter2-hunter2")
        self.assertNotIn("hunter2", repr(await admin.call("get_pending_tasks")))
        await admin.commit()
        for path in (self.directory / "state").rglob("*"):
            if path.is_file():
                self.assertNotIn(b"hunter2", path.read_bytes(), path.name)

    async def test_too_many_pending(self) -> None:
        admin = await self.client()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "web"})
        for _ in range(1000):
            await admin.call("start_vm", vm)
        await self.refused(413, admin.call("start_vm", vm))

    async def made(self, client: Client, name: str) -> int:
        vm: int = await client.call("create_vm", {"name": name})
        await client.finish(await client.call("commit_tasks"))
        self.assertEqual((await client.call("get_vm", vm))["state"], "stopped")
        return vm
