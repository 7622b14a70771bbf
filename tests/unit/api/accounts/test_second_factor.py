from __future__ import annotations

import pyotp

from tests.support import PASSWORD, Client, ServerCase


class SecondFactorTests(ServerCase):
    async def setUpFactor(self, client: Client) -> pyotp.TOTP:
        """Give a user a second factor."""
        made = await client.call("begin_second_factor", PASSWORD)
        self.assertTrue(made["uri"].startswith("otpauth://totp/"))
        totp = pyotp.TOTP(made["secret"])
        self.assertIs(await client.call("confirm_second_factor", self.code(client, totp)), True)
        return totp

    def code(self, client: Client, totp: pyotp.TOTP) -> str:
        """The current code; time passes first, so that it is a new one."""
        running = client.running
        running.clock.advance(60)
        return totp.at(int(running.now + running.clock.seconds()))

    async def test_required_at_login(self) -> None:
        running = self.serve()
        client = await running.login()
        totp = await self.setUpFactor(client)
        self.assertIs((await client.call("get_user", 1))["second_factor"], True)
        words = await self.refused(402, running.call("authenticate", "admin", PASSWORD))
        code = self.code(client, totp)
        self.assertEqual(await self.refused(402, running.call("authenticate", "admin", "wrong", code)), words)
        self.assertEqual(await self.refused(402, running.call("authenticate", "admin", PASSWORD, "000000")), words)
        cookie = await running.call("authenticate", "admin", PASSWORD, code)
        await running.call("ping", cookie)
        # A code is valid once.
        await self.refused(402, running.call("authenticate", "admin", PASSWORD, code))

    async def test_the_confirming_code_is_valid_for_one_login(self) -> None:
        running = self.serve()
        client = await running.login()
        totp = pyotp.TOTP((await client.call("begin_second_factor", PASSWORD))["secret"])
        code = self.code(client, totp)
        await client.call("confirm_second_factor", code)
        before = totp.at(int(running.now + running.clock.seconds()) - 30)
        await self.refused(402, running.call("authenticate", "admin", PASSWORD, before))
        await running.call("authenticate", "admin", PASSWORD, code)
        await self.refused(402, running.call("authenticate", "admin", PASSWORD, code))

    async def test_survives_a_restart(self) -> None:
        running = self.serve()
        client = await running.login()
        totp = await self.setUpFactor(client)
        now = running.now + running.clock.seconds()
        running = await self.restart(running)
        running.now = now
        await self.refused(402, running.call("authenticate", "admin", PASSWORD))
        await running.call("authenticate", "admin", PASSWORD, self.code(Client(running, 0, ""), totp))

    async def test_wrong_codes_are_throttled(self) -> None:
        running = self.serve()
        await self.setUpFactor(await running.login())
        for _ in range(5):
            await self.refused(402, running.call("authenticate", "admin", PASSWORD, "000000"))
        await self.refused(429, running.call("authenticate", "admin", PASSWORD, "000000"))

    async def test_beginning_needs_the_password_and_a_correct_code(self) -> None:
        client = await self.serve().login()
        await self.refused(402, client.call("begin_second_factor", "wrong"))
        await self.refused(409, client.call("confirm_second_factor", "000000"))
        await client.call("begin_second_factor", PASSWORD)
        await self.refused(-32602, client.call("confirm_second_factor", "000000"))
        self.assertIs((await client.call("get_user", 1))["second_factor"], False)
        await client.running.login()

    async def test_removed(self) -> None:
        running = self.serve()
        admin = await running.login()
        alice = await admin.user("alice")
        totp = await self.setUpFactor(alice)
        await self.refused(409, alice.call("begin_second_factor", PASSWORD))
        await self.refused(402, alice.call("remove_second_factor", 2, "000000"))
        await self.refused(404, alice.call("remove_second_factor", 1))
        await alice.call("remove_second_factor", 2, self.code(alice, totp))
        await running.login("alice")
        await self.setUpFactor(alice)
        await self.refused(402, running.call("authenticate", "alice", PASSWORD))
        await admin.call("remove_second_factor", 2)
        await running.login("alice")
        await self.refused(409, admin.call("remove_second_factor", 2))

    async def test_an_auditor_cannot_remove_another_users(self) -> None:
        admin = await self.serve().login()
        auditor, alice = await admin.user("watcher", "auditor"), await admin.user("alice")
        # With the same text, whether the user has one or not.
        before = await self.refused(403, auditor.call("remove_second_factor", 3))
        await self.setUpFactor(alice)
        self.assertEqual(await self.refused(403, auditor.call("remove_second_factor", 3)), before)


class RehashTests(ServerCase):
    async def test_new_hash_parameters_apply_at_the_next_login(self) -> None:
        running = self.serve()
        await running.login()
        await running.stop()
        self.running.remove(running)
        running = self.serve("--password-memory", "16")
        await running.login()
        found = await running.server.inventory.read(_hash)
        self.assertIn("m=16,", found)
        await running.login()


def _hash(connection: object) -> str:
    return str(connection.exec_driver_sql("SELECT password_hash FROM users").scalar())  # type: ignore[attr-defined]
