from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults

from tests.support import PASSWORD, ServerCase

NEW = "another good password"


class UserTests(ServerCase):
    async def test_a_created_user_reads_back(self) -> None:
        admin = await self.serve().login()
        plan = await admin.do("create_resource_plan", "small", {"vms": 1})
        options = {"role": "auditor", "resource_plan": plan, "full_name": "Alice <b>", "email": "a@example.org"}
        user = await admin.do("create_user", "alice", PASSWORD, options)
        shown = await admin.call("get_user", user)
        self.assertEqual({key: shown[key] for key in options}, options)
        self.assertIs(shown["enabled"], True)
        self.assertNotIn("last_login", shown)
        self.assertEqual((await admin.call("get_resource_plan", plan))["users"], 1)

    async def test_details(self) -> None:
        admin = await self.serve().login()
        alice = await admin.user("alice")
        await alice.do("set_user_details", 2, {"full_name": "Alice"})
        await admin.do("set_user_details", 2, {"email": "a@example.org"})
        shown = await alice.call("get_user", 2)
        self.assertEqual((shown["full_name"], shown["email"]), ("Alice", "a@example.org"))
        await self.refused(404, alice.call("set_user_details", 1, {}))

    async def test_a_disabled_user_is_logged_out(self) -> None:
        running = self.serve()
        admin = await running.login()
        alice = await admin.user("alice")
        await admin.do("set_user_enabled", 2, False)
        await self.refused(401, alice.call("ping"))
        wrong = await self.refused(402, running.call("authenticate", "alice", "wrong"))
        self.assertEqual(await self.refused(402, running.call("authenticate", "alice", PASSWORD)), wrong)
        await admin.do("set_user_enabled", 2, True)
        await (await running.login("alice")).call("ping")

    async def test_tasks_of_a_disabled_user_that_had_not_started_fail(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node(delay=5.0)
        alice = await admin.user("alice")
        await alice.call("create_vm", {"name": "one"})
        await alice.call("create_vm", {"name": "two"})
        ec = await alice.call("commit_tasks")
        await admin.call("set_user_enabled", 2, False)
        await admin.commit()
        await admin.finish(ec)
        context = await admin.call("get_execution_context", ec)
        self.assertEqual([task["code"] for task in context["tasks"]], [0, 403])
        self.assertIn("disabled", context["errors"][1])

    async def test_an_object_with_a_new_owner_is_not_found(self) -> None:
        admin = await self.serve().login()
        alice = await admin.user("alice")
        await alice.call("set_user_details", 2, {})
        await admin.do("set_user_role", 2, "auditor")
        ec = await alice.commit()
        self.assertEqual((await alice.call("get_execution_context", ec))["tasks"][0]["code"], 403)

    async def test_a_new_password_ends_the_sessions(self) -> None:
        running = self.serve()
        admin = await running.login()
        alice = await admin.user("alice")
        await admin.do("set_user_password", 2, NEW)
        await self.refused(401, alice.call("ping"))
        await self.refused(402, running.call("authenticate", "alice", PASSWORD))
        await running.login("alice", NEW)

    async def test_password_rules(self) -> None:
        admin = await self.serve("--password-length", "10").login()
        for password in ("ninechars", "bobby.tables", "1234567890"):
            words = await self.refused(-32602, admin.call("create_user", "bobby.tables", password))
            self.assertTrue(words.startswith("password:"))
            self.assertNotIn(password, words.replace("bobby.tables'", ""))
        await self.refused(-32602, admin.call("set_user_password", 1, "password12"))
        self.assertEqual(await admin.call("get_pending_tasks"), [])

    async def test_deleted(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        alice = await admin.user("alice")
        vm = await alice.do("create_vm", {"name": "one"})
        code, words = await admin.fail("delete_user", 2)
        self.assertEqual(code, 409)
        self.assertIn("VM one", words)
        await alice.do("delete_vm", vm)
        await admin.do("delete_user", 2)
        await self.refused(401, alice.call("ping"))
        await self.refused(402, running.call("authenticate", "alice", PASSWORD))
        await self.refused(404, admin.call("get_user", 2))
        self.assertEqual(await admin.do("create_user", "alice", PASSWORD), 3)

    async def test_the_last_administrator_stays(self) -> None:
        admin = await self.serve().login()
        for method, *arguments in (("delete_user",), ("set_user_role", "user"), ("set_user_enabled", False)):
            code, words = await admin.fail(method, 1, *arguments)
            self.assertEqual(code, 409, words)
        other = await admin.user("other", "admin")
        await admin.do("set_user_enabled", 2, False)
        self.assertEqual((await admin.fail("set_user_role", 1, "user"))[0], 409)
        await admin.do("set_user_enabled", 2, True)
        # Both at the same time: one of them wins.
        other = await admin.running.login("other")
        await admin.call("set_user_role", 2, "user")
        await other.call("set_user_role", 1, "user")
        committing = gatherResults([Deferred.fromCoroutine(one.call("commit_tasks")) for one in (admin, other)])
        first, second = await committing
        await admin.finish(first)
        self.assertEqual([user["id"] for user in await admin.call("list_users", {"role": "admin"})], [1])
        await admin.finish(second)
        self.assertEqual((await admin.call("get_execution_context", second))["tasks"][0]["code"], 403)

    async def test_a_demoted_administrator_loses_the_role_at_once(self) -> None:
        admin = await self.serve().login()
        other = await admin.user("other", "admin")
        await other.call("list_users")
        await admin.do("set_user_role", 2, "user")
        self.assertEqual(len(await other.call("list_users")), 1)
        await self.refused(403, other.call("create_user", "x", PASSWORD))


class SessionListTests(ServerCase):
    async def test_listed_and_closed(self) -> None:
        running = self.serve()
        admin = await running.login()
        alice, bob = await admin.user("alice", address="192.0.2.7"), await admin.user("bob")
        await alice.call("set_user_details", 2, {})
        everyone = await admin.call("list_sessions")
        self.assertEqual([(one["user"], one["address"]) for one in everyone][1], (2, "192.0.2.7"))
        self.assertEqual(everyone[1]["pending"], 1)
        self.assertEqual(set(everyone[0]), {"id", "user", "address", "created", "last_ping", "pending"})
        self.assertNotIn(admin.cookie, [value for one in everyone for value in one.values()])
        (own,) = await bob.call("list_sessions")
        self.assertEqual(own["user"], 3)
        self.assertEqual(await admin.call("list_sessions", {"user": 2, "fields": ["id"]}), [{"id": everyone[1]["id"]}])
        await self.refused(404, bob.call("close_session", everyone[1]["id"]))
        self.assertIs(await admin.call("close_session", everyone[1]["id"]), True)
        await self.refused(401, alice.call("ping"))
        await self.refused(404, admin.call("close_session", everyone[1]["id"]))
        await bob.call("close_session", own["id"])
        await self.refused(401, bob.call("ping"))

    async def test_expired_ones_are_not_listed(self) -> None:
        running = self.serve("--session-timeout", "10")
        await running.login()
        running.clock.advance(9)
        admin = await running.login()
        running.clock.advance(2)
        self.assertEqual(len(await admin.call("list_sessions")), 1)


class WrongCookieTests(ServerCase):
    async def test_guessed_cookies_are_throttled_and_valid_ones_are_not(self) -> None:
        running = self.serve()
        client = await running.login()
        wrong = client.cookie ^ 1
        for _ in range(250):
            await self.refused(401, running.call("ping", wrong))
        held = [self.held(running.call("ping", wrong)) for _ in range(3)]
        for _ in range(20):
            await client.call("ping")
        self.assertEqual([len(one) for one in held], [0, 0, 0])
        await self.refused(401, running.call("ping", wrong, address="192.0.2.2"))
        running.clock.advance(20)
        for one in held:
            self.assertEqual(one[0].value.faultCode, 429)  # type: ignore[attr-defined]
            self.assertRegex(one[0].value.faultString, r"in \d+ s")  # type: ignore[attr-defined]

    async def test_one_boxcar_can_try_only_one_cookie(self) -> None:
        running = self.serve()
        client = await running.login()
        for _ in range(250):
            await self.refused(401, running.call("ping", client.cookie ^ 1))
        guesses = [client.cookie ^ 1, client.cookie ^ 2, client.cookie]
        answers: list[object] = []
        boxcar = [{"methodName": "ping", "params": [cookie]} for cookie in guesses]
        self.then(running.call("system.multicall", boxcar), answers)
        running.clock.advance(20)
        await self.until(lambda: answers)
        self.assertEqual([answer["faultCode"] for answer in answers[0]], [429, 429, 429])  # type: ignore[attr-defined]

    def then(self, call: object, answers: list[object]) -> None:
        from twisted.internet.defer import Deferred

        Deferred.fromCoroutine(call).addBoth(answers.append)  # type: ignore[arg-type]

    def held(self, call: object) -> list[object]:
        answers: list[object] = []
        self.then(call, answers)
        return answers
