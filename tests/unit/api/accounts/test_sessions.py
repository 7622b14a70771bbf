from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from fluidvm.wire import answers
from tests.support import PASSWORD, Client, Running, ServerCase


class SessionTests(ServerCase):
    async def test_authenticate(self) -> None:
        running = self.serve()
        cookies = {(await running.login()).cookie for _ in range(10)}
        self.assertEqual(len(cookies), 10)
        self.assertTrue(all(-(2**31) <= cookie < 2**31 and cookie for cookie in cookies))

    async def test_wrong_user_and_wrong_password_get_the_same_words(self) -> None:
        running = self.serve()
        words = {
            await self.refused(402, running.call("authenticate", name, password))
            for name, password in (("admin", "x"), ("nobody", PASSWORD), ("", ""), ("a'; DROP TABLE users", "x"))
        }
        self.assertEqual(len(words), 1)

    async def test_throttled(self) -> None:
        running = self.serve()
        for _ in range(5):
            await self.refused(402, running.call("authenticate", "admin", "x"))
        words = await self.refused(429, running.call("authenticate", "admin", PASSWORD))
        self.assertIn("1 s", words)
        await running.login(address="192.0.2.2")
        running.clock.advance(1)
        await running.login()

    async def test_many_simultaneous_wrong_passwords_learn_nothing(self) -> None:
        running = self.serve()
        answers = await gatherResults(
            [
                Deferred.fromCoroutine(running.call("authenticate", "admin", "x")).addErrback(  # type: ignore[call-overload]
                    lambda failure: failure.value.faultCode
                )
                for _ in range(20)
            ]
        )
        self.assertEqual((answers.count(402), answers.count(429)), (5, 15))

    async def test_logout_drops_pending_tasks_only(self) -> None:
        running = self.serve()
        client, other = await running.login(), await running.login()
        await client.call("create_user", "x", PASSWORD)
        self.assertIs(await client.call("logout"), True)
        await self.refused(401, client.call("get_session"))
        self.assertEqual((await other.call("get_session"))["pending"], 0)
        self.assertEqual(len(await other.call("list_users")), 1)

    async def test_expiry(self) -> None:
        running = self.serve("--session-timeout", "10")
        client = await running.login()
        for _ in range(4):
            running.clock.advance(9)
            self.assertEqual(await client.call("ping"), [])
        running.clock.advance(5)
        await client.call("get_session")  # doesn't keep it alive
        running.clock.advance(5)
        await self.refused(401, client.call("ping"))

    async def test_any_call_keeps_a_session_alive_if_configured(self) -> None:
        running = self.serve("--keepalive", "any-call", "--session-timeout", "30")
        client = await running.login()
        for _ in range(4):
            running.clock.advance(29)
            await client.call("get_session")

    async def test_a_long_wait_counts_until_it_is_answered(self) -> None:
        for keepalive, left in (("any-call", 30), ("ping", 25)):
            running = self.serve("--keepalive", keepalive, "--session-timeout", "30", "--node-timeout", "3600")
            client = await running.login()
            await client.node(hang=["define_domain"])
            await client.call("create_vm", {"name": "slow"})
            ec = await client.call("commit_tasks")
            await client.call("ping")
            running.clock.advance(20)
            waiting = Deferred.fromCoroutine(client.call("wait_for_tasks", ec, 25.0))
            for _ in range(25):
                self.assertFalse(waiting.called)
                await running.pass_time(1)
            self.assertIs(await waiting, False)
            await self.stays(client, left)
            await running.stop()
            self.running.remove(running)
            self.forget()

    async def test_a_node_that_hangs_expires_no_session(self) -> None:
        for keepalive in ("any-call", "ping"):
            running = self.serve("--keepalive", keepalive, "--session-timeout", "30", "--node-timeout", "120")
            client = await running.login()
            node = await client.node()
            await client.do("start_vm", await client.do("create_vm", {"name": "web"}))
            connection: Any = running.server._nodes._watches[node].connection
            connection._connection._faults._hang = frozenset(["domain_stats"])
            await client.call("ping")
            asked = Deferred.fromCoroutine(self.refused(503, client.call("get_vm_stats", 1)))
            boxcar = Deferred.fromCoroutine(
                running.call("system.multicall", [{"methodName": "get_vm_stats", "params": [client.cookie, 1]}])
            )
            while not (asked.called and boxcar.called):
                await running.pass_time(5)
            self.assertIn("no answer", await asked)
            self.assertEqual((await boxcar)[0]["faultCode"], 503)
            await self.stays(client, 30)
            await running.stop()
            self.running.remove(running)
            self.forget()

    async def test_an_answer_that_waits_for_memory_expires_no_session(self) -> None:
        running = self.serve("--session-timeout", "10")
        client = await running.login()
        for count in range(3):
            await client.do("set_user_details", 1, {"full_name": str(count)})
        await client.call("ping")
        self.patch(answers, "SMALL", 10)
        unsent = running.server.dispatcher._unsent
        unsent.take("192.0.2.1", 2**27)
        listing = Deferred.fromCoroutine(client.call("list_users"))
        for _ in range(20):
            running.clock.advance(1)
        unsent.give("192.0.2.1", 2**27)
        self.assertEqual(len(await listing), 1)
        await self.stays(client, 10)

    async def stays(self, client: Client, seconds: int) -> None:
        """Check that this client has the only session, and how many seconds it has left."""
        sessions = client.running.server.sessions
        (found,) = sessions.all()
        self.assertEqual((found.cookie, round(sessions.left(found))), (client.cookie, seconds))
        await client.call("ping")

    async def test_get_session(self) -> None:
        running = self.serve("--session-timeout", "30")
        client = await running.login()
        running.clock.advance(7)
        session = await client.call("get_session")
        self.assertEqual((session["user"], session["role"], session["address"]), (1, "admin", "192.0.2.1"))
        self.assertEqual((session["expires"] - session["created"]).total_seconds(), 30)
        self.assertNotIn(client.cookie, session.values())

    async def test_changing_ones_own_password_ends_other_sessions(self) -> None:
        running = self.serve()
        admin = await running.login()
        user = await admin.user("alice")
        second = await running.login("alice")
        await user.do("set_user_password", 2, "another one")
        await self.refused(401, second.call("get_session"))
        await user.do("set_user_details", 2, {"full_name": "Alice"})
        await self.refused(402, running.call("authenticate", "alice", PASSWORD))
        third = await running.login("alice", "another one")
        await admin.do("set_user_password", 2, PASSWORD)
        for ended in (user, third):
            await self.refused(401, ended.call("get_session"))
        await admin.call("get_session")

    async def test_only_the_session_that_committed_it_continues(self) -> None:
        """Not a session that only queued the task, nor the session with the same id after a restart."""
        running = self.serve()
        first, second = await running.login(), await running.login()
        node = await first.node(delay=20.0)
        await first.call("set_user_password", 1, "another one")
        await second.call("create_vm", {"name": "slow", "compute_node": node})
        await second.call("set_user_password", 1, "a third one")
        ec = await second.call("commit_tasks")
        running = await self.restart(running)
        sessions = [await running.login() for _ in range(3)]
        self.assertEqual([(await one.call("get_session"))["id"] for one in sessions], [1, 2, 3])
        await self.finished(running, ec)
        for ended in sessions:
            await self.refused(401, ended.call("get_session"))
        errors = await (await running.login(password="a third one")).call("get_errors", ec)
        self.assertEqual(errors, ["", ""])

    async def finished(self, running: Running, ec: int) -> None:
        """Advance the clock until an execution context that no client can query is complete."""
        while not running.server._engine._contexts[ec].complete:
            await running.pass_time(1)


class PingTests(ServerCase):
    async def test_tells_each_change_once(self) -> None:
        running = self.serve()
        admin, other = await running.login(), await running.login()
        self.assertEqual(await admin.call("ping"), [])
        await other.do("create_user", "alice", PASSWORD)
        told = await admin.call("ping")
        self.assertEqual(
            [(change["type"], change["change"]) for change in told], [("execution_context", "created"), ("user", "created")]
        )
        self.assertEqual(await admin.call("ping"), [])
        self.assertEqual(len(await other.call("ping")), 2)

    async def test_users_see_changes_of_their_own_objects_only(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        alice, bob = await admin.user("alice"), await admin.user("bob")
        await alice.do("create_vm", {"name": "web", "compute_node": node})
        self.assertIn("vm", [change["type"] for change in await alice.call("ping")])
        self.assertEqual(await bob.call("ping"), [])

    async def test_get_changes_is_lossless(self) -> None:
        running = self.serve()
        admin = await running.login()
        start = await admin.call("get_changes", 0)
        self.assertEqual((start["reset"], start["changes"]), (False, []))
        await admin.do("create_user", "alice", PASSWORD)
        for _ in range(2):
            after = await admin.call("get_changes", start["serial"])
            self.assertEqual([change["type"] for change in after["changes"]], ["execution_context", "user"])
            self.assertIs(after["reset"], False)
        self.assertEqual((await admin.call("get_changes", float(after["serial"])))["changes"], [])
        self.assertIs((await admin.call("get_changes", after["serial"] + 100))["reset"], True)

    async def test_changes_survive_a_restart(self) -> None:
        running = self.serve()
        admin = await running.login()
        start = (await admin.call("get_changes", 0))["serial"]
        await admin.do("create_user", "alice", PASSWORD)
        admin = await (await self.restart(running)).login()
        changes = (await admin.call("get_changes", start))["changes"]
        self.assertEqual([change["type"] for change in changes], ["execution_context", "user"])
