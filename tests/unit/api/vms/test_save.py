from __future__ import annotations

from tests.support import ServerCase


class SaveTests(ServerCase):
    async def test_saved_and_restored(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "one"})
        self.assertEqual((await admin.fail("save_vm", vm))[0], 409)
        await admin.do("start_vm", vm)
        await admin.do("save_vm", vm)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "saved")
        for method in ("start_vm", "delete_vm", "resume_vm"):
            self.assertEqual((await admin.fail(method, vm))[0], 409, method)
        await admin.do("restore_vm", vm)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")
        await admin.do("save_vm", vm)
        await admin.do("stop_vm", vm)
        self.assertEqual((await admin.fail("restore_vm", vm))[0], 409)
        await admin.do("delete_vm", vm)

    async def test_running_vms(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        plan = await admin.do("create_resource_plan", "small", {"running_vms": 1})
        alice = await admin.user("alice")
        await admin.do("set_user_resource_plan", 2, plan)
        one, two = [await alice.do("create_vm", {"name": name}) for name in ("one", "two")]
        await alice.do("start_vm", one)
        await alice.do("save_vm", one)
        await alice.do("start_vm", two)
        self.assertEqual((await alice.fail("restore_vm", one))[0], 507)
        self.assertEqual((await alice.call("get_vm", one))["state"], "saved")
        await alice.do("stop_vm", two)
        await alice.do("restore_vm", one)
        self.assertEqual((await alice.call("get_user_usage", 2))["running_vms"], {"used": 1, "limit": 1})

    async def test_over_a_restart(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "one"})
        await admin.do("start_vm", vm)
        await admin.do("save_vm", vm)
        admin = await (await self.restart(running)).login()
        self.assertEqual((await admin.call("get_vm", vm))["state"], "saved")
        await admin.do("restore_vm", vm)

    async def test_cancelled(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(hang=["save"])
        vm = await admin.do("create_vm", {"name": "one"})
        await admin.do("start_vm", vm)
        await admin.call("save_vm", vm)
        ec = await admin.call("commit_tasks")
        await running.pass_time(0.1)
        self.assertEqual(await admin.call("cancel_tasks", ec), 1)
        await admin.finish(ec)
        self.assertEqual(await admin.call("get_errors", ec), ["cancelled"])
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")

    async def test_reset(self) -> None:
        admin = await self.serve().login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "one"})
        self.assertEqual((await admin.fail("reset_vm", vm))[0], 409)
        await admin.do("start_vm", vm)
        await admin.do("reset_vm", vm)
        self.assertEqual((await admin.call("get_vm", vm))["state"], "running")
