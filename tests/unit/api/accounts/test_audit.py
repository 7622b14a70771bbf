from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from tests.support import Client, ServerCase

SECRET = "a very secret password"


class AuditTests(ServerCase):
    async def lines(self, admin: Client, **wanted: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await admin.call("list_audit", wanted)
        return found

    async def test_who_did_what_and_its_outcome(self) -> None:
        running = self.serve()
        admin = await running.login(address="192.0.2.9")
        await admin.node()
        vm = await admin.call("create_vm", {"name": "one", "memory": 64})
        ec = await admin.commit()
        await admin.fail("resume_vm", vm)
        lines = (await self.lines(admin))[-6:]
        self.assertEqual(
            [(line["event"], line["method"], line["code"]) for line in lines],
            [
                ("call", "create_vm", 0),
                ("commit", "commit_tasks", 0),
                ("outcome", "create_vm", 0),
                ("call", "resume_vm", 0),
                ("commit", "commit_tasks", 0),
                ("outcome", "resume_vm", 409),
            ],
        )
        self.assertEqual((lines[2]["execution_context"], lines[2]["task"], lines[2]["target"]), (ec, 1, vm))
        self.assertEqual(lines[1]["address"], "192.0.2.9")

    async def test_a_call(self) -> None:
        running = self.serve()
        admin = await running.login(address="192.0.2.9")
        await admin.call("create_vm", {"name": "one", "memory": 64, "description": "x" * 999})
        (line,) = await self.lines(admin, event="call")
        self.assertEqual(
            {key: line[key] for key in ("user", "name", "address", "method", "target_type", "target", "code")},
            {
                "user": 1,
                "name": "admin",
                "address": "192.0.2.9",
                "method": "create_vm",
                "target_type": "vm",
                "target": 1,
                "code": 0,
            },
        )
        self.assertIn('"memory": 64', line["arguments"])
        self.assertLess(len(line["arguments"]), 500)
        self.assertIsInstance(line["time"], datetime)

    async def test_refused_calls_are_logged(self) -> None:
        admin = await self.serve().login()
        user = await admin.user("alice")
        await self.refused(404, user.call("delete_vm", 9))
        await self.refused(-32602, user.call("delete_vm", "9"))
        lines = await self.lines(admin, method="delete_vm")
        self.assertEqual([(line["name"], line["code"]) for line in lines], [("alice", 404), ("alice", -32602)])
        self.assertIn("no VM 9", lines[0]["error"])

    async def test_calls_that_a_role_must_not_make_are_logged(self) -> None:
        admin = await self.serve().login()
        user, auditor = await admin.user("alice"), await admin.user("watcher", "auditor")
        await self.refused(403, user.call("create_user", "mallory", SECRET, {"role": "admin"}))
        await self.refused(403, user.call("set_user_role", 2, "admin"))
        await self.refused(403, auditor.call("close_session", 1))
        lines = await self.lines(admin, event="call", code=403)
        self.assertEqual(
            [(line["name"], line["method"]) for line in lines],
            [("alice", "create_user"), ("alice", "set_user_role"), ("watcher", "close_session")],
        )
        self.assertNotIn(SECRET, str(lines))

    async def test_cancelling_is_logged(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(hang=["start"])
        await admin.call("start_vm", await admin.do("create_vm", {"name": "web"}))
        ec = await admin.call("commit_tasks")
        await admin.call("cancel_tasks", ec)
        lines = await self.lines(admin, method="cancel_tasks")
        self.assertEqual(
            [(line["name"], line["code"], line["arguments"]) for line in lines], [("admin", 0, f'{{"ec": {ec}}}')]
        )

    async def test_logins(self) -> None:
        running = self.serve()
        for _ in range(5):
            await self.refused(402, running.call("authenticate", "admin", "wrong " + SECRET, address="198.51.100.1"))
        for _ in range(30):
            await self.refused(429, running.call("authenticate", "admin", "wrong " + SECRET, address="198.51.100.1"))
        admin = await running.login()
        lines = await self.lines(admin, event="authenticate")
        self.assertEqual([line["code"] for line in lines], [402] * 5 + [0, 429])
        self.assertEqual(lines[0]["address"], "198.51.100.1")
        self.assertEqual(lines[-1]["arguments"], "30 times")
        self.assertEqual(lines[5]["user"], 1)

    async def test_secrets_are_in_no_line_and_no_file(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.do("create_user", "alice", SECRET)
        await admin.do("set_user_password", 2, SECRET + "!")
        await self.refused(-32602, admin.call("create_user", "bob", SECRET, {}, SECRET))
        await self.refused(-32602, admin.call("create_user", SECRET, SECRET))
        alice = await running.login("alice", SECRET + "!")
        await alice.call("begin_second_factor", SECRET + "!")
        self.assertIn('"password": "***"', (await self.lines(admin, method="create_user"))[0]["arguments"])
        self.assertNotIn(SECRET, repr(await self.lines(admin)))
        await running.stop()
        self.running.remove(running)
        for path in (path for path in (self.directory / "state").rglob("*") if path.is_file()):
            self.assertNotIn(SECRET.encode(), path.read_bytes(), path)

    async def test_filters_and_pages(self) -> None:
        running = self.serve()
        admin = await running.login()
        for _ in range(5):
            await admin.call("create_vm", {"name": "x"})
            running.clock.advance(10)
        calls = await self.lines(admin, event="call")
        self.assertEqual(len(calls), 5)
        page = await self.lines(admin, event="call", limit=2, after=calls[1]["id"], fields=["id"])
        self.assertEqual(page, [{"id": calls[2]["id"]}, {"id": calls[3]["id"]}])
        since, until = calls[1]["time"] - timedelta(seconds=1), calls[3]["time"]
        some = await self.lines(admin, event="call", since=since, until=until)
        self.assertEqual([line["id"] for line in some], [calls[1]["id"], calls[2]["id"]])
        self.assertEqual(await self.lines(admin, name="nobody"), [])

    async def test_who_may_read_it(self) -> None:
        admin = await self.serve().login()
        auditor, user = await admin.user("watcher", "auditor"), await admin.user("alice")
        self.assertTrue(await auditor.call("list_audit"))
        await self.refused(403, user.call("list_audit"))

    async def test_survives_a_restart_and_is_dropped_when_old(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.call("create_vm", {"name": "x"})
        running = await self.restart(running)
        admin = await running.login()
        self.assertEqual(len(await self.lines(admin, event="call")), 1)
        running.now += 366 * 86400
        running.clock.advance(3600)
        await running.pass_time(1)
        await running.pass_time(1)
        admin = await running.login()
        self.assertEqual(await self.lines(admin, event="call"), [])

    async def test_lines_are_never_changed(self) -> None:
        running = self.serve()
        await running.login()
        await running.pass_time(1)
        await running.stop()
        self.running.remove(running)
        with self.assertRaisesRegex(SQLAlchemyError, "append-only"):
            self.execute("UPDATE audit SET code = 0")
