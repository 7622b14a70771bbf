"""Execution contexts: cancel, plan, stop, recover and delete."""

from __future__ import annotations

from threading import Event
from typing import Any

from twisted.internet.defer import Deferred

from fluidvm.store.database import Database
from fluidvm.store.writer import Writer
from tests import TIMEOUT
from tests.support import PASSWORD, Client, ServerCase


class CancelTests(ServerCase):
    async def test_queued_tasks_end_at_once(self) -> None:
        admin = await self.serve().login()
        await admin.node(delay=1.0)
        vm = await admin.do("create_vm", {"name": "web"})
        for method in ("start_vm", "pause_vm", "resume_vm"):
            await admin.call(method, vm)
        ec = await admin.call("commit_tasks")
        await admin.running.pass_time(0.5)
        self.assertEqual(await admin.call("cancel_tasks", ec), 2)
        self.assertEqual(await admin.call("get_task_state", ec), [1, 0, 0])
        self.assertEqual(await admin.call("get_errors", ec), ["", "cancelled", "cancelled"])
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), ["", "cancelled", "cancelled"])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")
        self.assertEqual(await admin.call("cancel_tasks", ec), 0)
        self.assertIn("finished", await admin.call("get_execution_context", ec))

    async def test_a_cancelled_task_that_waits_for_another_leaves_the_queue(self) -> None:
        admin = await self.serve().login()
        await admin.node(delay=1.0)
        vm = await admin.do("create_vm", {"name": "web"})
        contexts = []
        for method in ("start_vm", "stop_vm", "start_vm"):
            await admin.call(method, vm)
            contexts.append(await admin.call("commit_tasks"))
        self.assertEqual(await admin.call("cancel_tasks", contexts[1]), 1)
        self.assertIs(await admin.call("wait_for_tasks", contexts[1], 0), True)
        await admin.finish(contexts[2])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")
        self.assertEqual(await admin.call("get_errors", contexts[1]), ["cancelled"])

    async def test_a_cancelled_running_task_cleans_up(self) -> None:
        admin = await self.serve().login()
        await admin.node(delay=10.0)
        disk = await admin.call("create_disk", {"name": "data", "size": 5})
        ec = await admin.call("commit_tasks")
        while not (await admin.call("get_task_progress", ec))[0] > 20:
            await admin.running.pass_time(1)
        self.assertEqual(await admin.call("cancel_tasks", ec), 1)
        self.assertEqual(await admin.call("get_task_state", ec), [1], "it is still cleaning up")
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), ["cancelled"])
        self.assertEqual(await admin.call("list_disks"), [])
        await self.refused(404, admin.call("get_disk", disk))

    async def test_a_task_that_waits_for_a_slot_can_be_cancelled(self) -> None:
        running = self.serve("--tasks-per-node", "1")
        admin = await running.login()
        await admin.node(delay=10.0)
        contexts = []
        for name in ("first", "second", "third"):
            await admin.call("create_disk", {"name": name, "size": 5})
            contexts.append(await admin.call("commit_tasks"))
        await running.pass_time(1)
        self.assertEqual(await admin.call("cancel_tasks", contexts[1]), 1)
        self.assertIs(await admin.call("wait_for_tasks", contexts[1], 1.0), True, "at once")
        self.assertEqual(await admin.call("get_errors", contexts[1]), ["cancelled"])
        self.assertEqual(await admin.call("get_task_state", contexts[0]), [1])
        for ec in contexts:
            await admin.finish(ec)
        self.assertEqual([disk["name"] for disk in await admin.call("list_disks")], ["first", "third"])

    async def test_users_cancel_only_their_own_contexts(self) -> None:
        admin = await self.serve().login()
        alice = await admin.user("alice")
        auditor = await admin.user("watcher", "auditor")
        ec = await admin.call("commit_tasks")
        await self.refused(404, alice.call("cancel_tasks", ec))
        await self.refused(403, auditor.call("cancel_tasks", ec))


class PlanTests(ServerCase):
    async def plan(self, client: Client) -> list[Any]:
        return [(task["ok"], task["code"], task.get("node", 0)) for task in await client.call("plan_tasks")]

    async def test_each_task_sees_the_results_of_earlier_ones(self) -> None:
        admin = await self.serve().login()
        node = await admin.node()
        vm = await admin.call("create_vm", {"name": "web", "memory": 128, "disks": [{"size": 5}]})
        disk = await admin.call("create_disk", {"name": "data", "size": 5})
        for method, arguments in (
            ("attach_disk", [vm, disk]),
            ("start_vm", [vm]),
            ("delete_vm", [vm]),
            ("pause_vm", [vm]),
            ("set_vm_vcpus", [vm, 9]),
            ("resume_vm", [vm]),
            ("shutdown_vm", [vm]),
            ("set_vm_vcpus", [vm, 9]),
            ("detach_disk", [vm, disk]),
            ("delete_vm", [vm]),
            ("start_vm", [vm]),
            ("delete_disk", [disk]),
            ("create_vm", [{"name": "web"}]),
        ):
            await admin.call(method, *arguments)
        good, conflict, gone = (True, 0, node), (False, 409, node), (False, 404, 0)
        planned = await self.plan(admin)
        self.assertEqual(
            planned,
            [good, good, good, good, conflict, good, conflict, good, good, good, good, good, gone, good, good],
        )
        # Nothing has changed, and the real run has the same outcome.
        self.assertEqual(await admin.call("list_vms"), [])
        self.assertEqual(len(await admin.call("get_pending_tasks")), len(planned))
        self.assertEqual(await self.plan(admin), planned)
        ec = await admin.commit()
        context = await admin.call("get_execution_context", ec)
        self.assertEqual([task["code"] for task in context["tasks"]], [code for _, code, _ in planned])

    async def test_placement_and_names(self) -> None:
        admin = await self.serve().login()
        await admin.node(memory=1024)
        await admin.do("create_vm", {"name": "there", "memory": 512})
        for spec in ({"name": "a", "memory": 512}, {"name": "b", "memory": 512}, {"name": "a", "memory": 16}):
            await admin.call("create_vm", spec)
        await admin.call("create_user", "alice", PASSWORD)
        await admin.call("create_user", "alice", PASSWORD)
        await admin.call("add_compute_node", "two", "simulator", "", {})
        plan = await admin.call("plan_tasks")
        self.assertEqual([task["code"] for task in plan], [0, 503, 409, 0, 409, 0])
        self.assertIn("node1: memory, 512 MiB short", plan[1]["error"])
        self.assertEqual([user["name"] for user in await admin.call("list_users")], ["admin"])
        self.assertEqual(len(await admin.call("list_compute_nodes")), 1)

    async def test_nobody_is_logged_out(self) -> None:
        admin = await self.serve().login()
        await admin.call("set_user_password", 1, "a new password")
        self.assertEqual([task["ok"] for task in await admin.call("plan_tasks")], [True])
        self.assertEqual((await admin.call("get_session"))["pending"], 1)

    async def test_ids_are_not_used_up(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        await admin.call("create_vm", {"name": "web", "disks": [{"size": 5}]})
        for _ in range(5):
            await admin.call("plan_tasks")
        await admin.commit()
        self.assertEqual([disk["id"] for disk in await admin.call("list_disks")], [1])


class SlotTests(ServerCase):
    async def test_the_number_of_tasks_on_a_node_is_limited(self) -> None:
        admin = await self.serve("--tasks-per-node", "2").login()
        await admin.node(delay=1.0)
        vms = []
        for number in range(4):
            vms.append(await admin.do("create_vm", {"name": f"vm{number}"}))
        contexts = []
        for vm in vms:
            await admin.call("reboot_vm", vm)
            await admin.call("start_vm", vm)
            contexts.append(await admin.call("commit_tasks"))
        most = 0
        while any([any(await admin.call("get_task_state", ec)) for ec in contexts]):
            states = [(await admin.call("get_vm", vm))["state"] for vm in vms]
            most = max(most, states.count("starting"))
            await admin.running.pass_time(0.25)
        self.assertEqual(most, 2)


class ProgressTests(ServerCase):
    async def test_it_does_not_decrease_across_a_restart(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(delay=10.0)
        await admin.call("create_disk", {"name": "data", "size": 1})
        ec = await admin.call("commit_tasks")
        seen = [await admin.call("get_task_progress", ec)]
        while seen[-1] < [40]:
            await running.pass_time(0.5)
            seen.append(await admin.call("get_task_progress", ec))
        running = await self.restart(running)
        admin = await running.login()
        while seen[-1] < [100]:
            seen.append(await admin.call("get_task_progress", ec))
            await running.pass_time(0.5)
        self.assertEqual(seen, sorted(seen))
        self.assertGreater(len({tuple(one) for one in seen}), 4)

    async def test_a_method_that_this_version_does_not_have(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(delay=15.0)
        await admin.call("create_disk", {"name": "data", "size": 1})
        await admin.call("create_disk", {"name": "more", "size": 1})
        ec = await admin.call("commit_tasks")
        await running.stop()
        self.running.remove(running)
        self.execute("UPDATE tasks SET method = 'teleport_disk' WHERE context = :ec AND position = 0", ec=ec)
        admin = await self.serve().login()
        await admin.finish(ec)
        context = await admin.call("get_execution_context", ec)
        self.assertEqual([task["code"] for task in context["tasks"]], [501, 0])
        self.assertIn("teleport_disk", context["errors"][0])


class RecoveryTests(ServerCase):
    async def test_stopping_refuses_commits_and_lets_the_running_task_end(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(delay=1.0)
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.call("start_vm", vm)
        await admin.call("pause_vm", vm)
        ec = await admin.call("commit_tasks")
        await running.pass_time(0.25)
        stopping = running.server.stopService()
        await admin.call("stop_vm", vm)
        self.assertIn("stopping", await self.refused(503, admin.call("commit_tasks")))
        self.assertEqual(len(await admin.call("get_pending_tasks")), 1)
        while not stopping.called:
            running.clock.advance(0.25)
            await self.turn()
        self.running.remove(running)
        admin = await self.serve().login()
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), ["", ""])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "paused")

    async def test_stopping_starts_no_task_that_waits_for_a_slot(self) -> None:
        running = self.serve("--tasks-per-node", "1")
        admin = await running.login()
        node = await admin.node(delay=1.0)
        contexts = []
        for name in ("first", "second"):
            await admin.call("create_disk", {"name": name, "size": 5, "compute_node": node})
            contexts.append(await admin.call("commit_tasks"))
        await running.pass_time(0.25)
        stopping = running.server.stopService()
        while not stopping.called:
            running.clock.advance(0.25)
            await self.turn()
        self.running.remove(running)
        admin = await self.serve().login()
        self.assertEqual(await admin.call("get_task_state", contexts[0]), [0])
        self.assertEqual(await admin.call("get_task_state", contexts[1]), [1], "it is left to the next start")
        for ec in contexts:
            await admin.finish(ec)
            self.assertEqual(await admin.call("get_errors", ec), [""])

    async def test_placement_waits_for_nodes_that_are_connecting(self) -> None:
        running = self.serve("--tasks-per-node", "1")
        admin = await running.login()
        await admin.node(delay=1.0)
        contexts = []
        for name in ("first", "second"):
            await admin.call("create_disk", {"name": name, "size": 5})
            contexts.append(await admin.call("commit_tasks"))
        admin = await (await self.restart(running)).login()
        for ec in contexts:
            await admin.finish(ec)
            self.assertEqual(await admin.call("get_errors", ec), [""])

    async def turn(self) -> None:
        """Let threads catch up."""
        seen: list[int] = []
        await self.until(lambda: seen.append(1) or len(seen) > 3)

    async def test_a_task_that_hangs_is_cancelled_and_runs_again(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        await admin.do("create_vm", {"name": "other"})
        await admin.node("hanging", hang=["define_domain"], labels=["h"])
        vm = await admin.call("create_vm", {"name": "web", "labels": ["h"], "disks": [{"size": 5}]})
        ec = await admin.call("commit_tasks")
        await running.pass_time(1)
        await running.stop()
        self.running.remove(running)
        self.mend_nodes()
        admin = await self.serve().login()
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), [""])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")
        self.assertEqual(len(await admin.call("list_disks")), 1)
        self.assertEqual((await admin.call("get_compute_node", node))["vms"], 1)

    async def test_an_interrupted_task_is_completed_though_the_rest_was_cancelled(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(hang=["define_domain"])
        vm = await admin.call("create_vm", {"name": "web", "disks": [{"size": 5}]})
        await admin.call("start_vm", vm)
        ec = await admin.call("commit_tasks", {"on_error": "stop"})
        await running.pass_time(1)
        self.assertEqual(await admin.call("cancel_tasks", ec), 1)
        await running.stop()
        self.running.remove(running)
        self.mend_nodes()
        admin = await self.serve().login()
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), ["", "cancelled"])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "stopped")

    def mend_nodes(self) -> None:
        """Remove the injected errors from the simulated nodes' options, while no server is running."""
        self.execute("UPDATE compute_nodes SET options = '{}'")

    async def test_a_reboot_that_was_interrupted_is_reported(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(hang=["reboot"])
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.do("start_vm", vm)
        await admin.call("reboot_vm", vm)
        ec = await admin.call("commit_tasks")
        await running.pass_time(1)
        await running.stop()
        self.running.remove(running)
        admin = await self.serve().login()
        await admin.finish(ec)
        context = await admin.call("get_execution_context", ec)
        self.assertIn("interrupted", context["errors"][0])
        self.assertEqual(context["tasks"][0]["code"], 503)

    async def test_a_store_that_fails_once_loses_no_outcome(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(delay=1.0)
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.call("stop_vm", vm)
        ec = await admin.call("commit_tasks")
        real = Database.run
        failures: list[Any] = []

        def run(database: Database, function: Any, *args: Any) -> Any:
            if len(failures) < 3 and function.__name__ == "_transaction" and args[1]:
                failures.append(1)
                return real(database, self.fail_store)
            return real(database, function, *args)

        self.patch(Database, "run", run)
        statuses = set()
        while any(await admin.call("get_task_state", ec)):
            statuses.add(await admin.call("get_status", ec))
            running.clock.advance(0.25)
            await self.turn()
        self.assertEqual(await admin.call("get_errors", ec), [""])
        self.assertTrue(any("store" in status for status in statuses), statuses)
        self.assertEqual(len(failures), 3)
        self.flushLoggedErrors()

    def fail_store(self, connection: Any) -> None:
        from fluidvm.model.faults import Unavailable

        raise Unavailable("The store failed: for the test.")

    async def test_a_slow_store_delays_outcomes_and_nothing_else(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "web"})
        real, go_on = Writer._transact, Event()

        def slowly(writer: Writer, connection: Any, group: Any) -> Any:
            go_on.wait(TIMEOUT)  # in the store's thread
            return real(writer, connection, group)

        self.patch(Writer, "_transact", slowly)
        await admin.call("start_vm", vm)
        committing = Deferred.fromCoroutine(admin.call("commit_tasks"))
        for _ in range(3):
            await admin.call("ping")
            await admin.call("get_vm", vm)
        self.assertFalse(committing.called)
        go_on.set()
        ec = await committing
        await self.finish_slowly(admin, ec)
        self.assertEqual(await admin.call("get_errors", ec), [""])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")

    async def finish_slowly(self, client: Client, ec: int) -> None:
        while any(await client.call("get_task_state", ec)):
            await self.turn()

    async def test_a_name_that_is_used_meanwhile_ends_the_task(self) -> None:
        """Two tasks that check at the same time: the store's constraint decides, and no context is stuck."""
        admin = await self.serve().login()
        first, second = await admin.running.login(), await admin.running.login()
        for client in (first, second):
            await client.call("create_user", "bob", PASSWORD)
        contexts = [await client.call("commit_tasks") for client in (first, second)]
        for number in contexts:
            await admin.finish(number)
        errors = [(await admin.call("get_errors", number))[0] for number in contexts]
        self.assertEqual(sorted(map(bool, errors)), [False, True])


class RetentionTests(ServerCase):
    async def test_old_contexts_are_deleted_unfinished_ones_never(self) -> None:
        running = self.serve("--keep-contexts", "1")
        admin = await running.login()
        await admin.node(hang=["start"])
        vm = await admin.do("create_vm", {"name": "web"})
        await admin.call("start_vm", vm)
        hanging = await admin.call("commit_tasks")
        old = await admin.call("commit_tasks")
        running.now += 2 * 86400
        fresh = await admin.call("commit_tasks")
        running.clock.advance(3601)
        await running.pass_time(0)
        await running.pass_time(0)
        listed = [context["id"] for context in await admin.call("list_execution_contexts")]
        self.assertEqual(listed, [fresh, hanging])
        await self.refused(404, admin.call("get_execution_context", old))
