from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fluidvm.auth.logins import (
    FREE_TRIES,
    FREE_TRIES_PER_ADDRESS,
    FREE_TRIES_PER_NAME,
    MOST_IN_ALL,
    MOST_PER_ADDRESS,
    Attempt,
    Logins,
    second_factor_step,
)
from fluidvm.auth.passwords import Hasher, check_password
from fluidvm.model.faults import InvalidParams, TooManyAttempts, Unavailable

ALICE = 7


class LoginsTests(TestCase):
    def setUp(self) -> None:
        self.logins = Logins(reactor, Clock(), Hasher(8, 1, 1), 8)
        self.logins.start()
        self.addCleanup(self.logins.stop)

    def wrong(self, address: str, name: str, user: int | None = ALICE) -> None:
        """Make a failed attempt, whether it would have been admitted or not."""
        network = address
        known = user is not None and network in self.logins._known.get(user, ())
        self.logins.failed(Attempt(network, name, known))

    def try_it(self, address: str, name: str = "alice", user: int | None = ALICE) -> Attempt:
        attempt = self.logins.begin(address, name, user)
        self.logins.end(attempt)
        return attempt

    async def test_right_and_wrong(self) -> None:
        hashed = await self.logins.hash("secret")
        self.assertTrue(hashed.startswith("$argon2id$"))
        self.assertTrue(await self.logins.verify(hashed, "secret"))
        self.assertFalse(await self.logins.verify(hashed, "Secret"))
        self.assertFalse(await self.logins.verify("nonsense", "secret"))

    async def test_an_unknown_user_is_never_right(self) -> None:
        for password in ("", "secret"):
            self.assertFalse(await self.logins.verify(None, password))

    async def test_new_parameters_are_noticed(self) -> None:
        hashed = await self.logins.hash("secret")
        self.assertFalse(self.logins.outdated(hashed))
        self.assertTrue(Logins(reactor, Clock(), Hasher(16, 1, 1), 8).outdated(hashed))

    def test_one_address_and_name(self) -> None:
        for _ in range(FREE_TRIES):
            self.try_it("192.0.2.1")
            self.wrong("192.0.2.1", "alice")
        words = str(self.assertRaises(TooManyAttempts, self.try_it, "192.0.2.1"))
        self.assertRegex(words, r"in \d+ s")

    def test_one_address_and_many_names(self) -> None:
        for number in range(FREE_TRIES_PER_ADDRESS):
            self.wrong("192.0.2.1", f"user{number}", None)
        self.assertRaises(TooManyAttempts, self.try_it, "192.0.2.1", "bob", 8)
        self.try_it("192.0.2.2", "bob", 8)

    def test_one_name_from_many_addresses(self) -> None:
        for number in range(FREE_TRIES_PER_NAME):
            self.wrong(f"198.51.100.{number}", "alice")
        self.assertRaises(TooManyAttempts, self.try_it, "192.0.2.1")
        self.try_it("192.0.2.1", "bob", 8)

    def test_attackers_lock_nobody_out_of_the_usual_address(self) -> None:
        self.logins.succeeded(self.try_it("192.0.2.1"), ALICE)
        for number in range(2 * FREE_TRIES_PER_NAME):
            self.wrong(f"198.51.100.{number}", "alice")
        for number in range(2 * FREE_TRIES_PER_ADDRESS):
            self.wrong("192.0.2.1", f"user{number}", None)
        self.try_it("192.0.2.1")
        self.assertRaises(TooManyAttempts, self.try_it, "198.51.100.250")

    def test_the_usual_address_is_throttled_by_its_own_attempts(self) -> None:
        self.logins.succeeded(self.try_it("192.0.2.1"), ALICE)
        for _ in range(FREE_TRIES):
            self.wrong("192.0.2.1", "alice")
        self.assertRaises(TooManyAttempts, self.try_it, "192.0.2.1")

    def test_simultaneous_attempts_are_limited(self) -> None:
        waiting = [self.logins.begin("192.0.2.1", "alice", ALICE) for _ in range(MOST_PER_ADDRESS)]
        self.assertRaises(TooManyAttempts, self.logins.begin, "192.0.2.1", "alice", ALICE)
        number = 0
        while len(waiting) < MOST_IN_ALL:
            waiting.append(self.logins.begin(f"10.0.{number // 250}.{number % 250}", f"n{number}", None))
            number += 1
        self.assertRaises(Unavailable, self.logins.begin, "192.0.2.2", "alice", ALICE)
        for attempt in waiting:
            self.logins.end(attempt)
        self.try_it("192.0.2.1")


class PasswordRuleTests(SynchronousTestCase):
    def test_easy_passwords_are_refused(self) -> None:
        for password, name in (
            ("tiny-7x", "alice"),
            ("Password1", "x"),
            ("alice.cooper", "Alice.Cooper"),
            ("iloveyou", "x"),
        ):
            words = str(self.assertRaises(InvalidParams, check_password, password, name, 8))
            self.assertTrue(words.startswith("password: "), words)
            self.assertNotIn(password, words)

    def test_other_passwords_are_accepted(self) -> None:
        for password in (
            "correct horse battery staple",
            "\u5bc6\u7801\u5f88\u957f\u5f88\u957f\u7684\u5462",
            "  spaces  ",
            "\x00" * 9,
        ):
            check_password(password, "alice", 8)


class SecondFactorTests(SynchronousTestCase):
    # RFC 6238, appendix B, SHA-1, truncated to six digits.
    SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    VECTORS = (
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
    )

    def test_vectors_of_the_rfc(self) -> None:
        for now, code in self.VECTORS:
            self.assertEqual(second_factor_step(self.SECRET, code, now, 0), now // 30)

    def test_a_clock_one_step_off(self) -> None:
        for off, good in ((-60, False), (-30, True), (30, True), (60, False)):
            found = second_factor_step(self.SECRET, "005924", 1234567890 + off, 0)
            self.assertEqual(found is not None, good)

    def test_a_code_can_be_used_once(self) -> None:
        step = second_factor_step(self.SECRET, "005924", 1234567890, 0)
        assert step is not None
        self.assertIsNone(second_factor_step(self.SECRET, "005924", 1234567890, step))

    def test_anything_else_is_wrong(self) -> None:
        for code in ("", "5924", "0059245", "00592x", "\u0660\u0660\u0665\u0669\u0662\u0664"):
            self.assertIsNone(second_factor_step(self.SECRET, code, 1234567890, 0))
