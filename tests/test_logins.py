from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fluidvm import logins
from fluidvm.faults import TooManyAttempts
from fluidvm.logins import FREE_TRIES, LONGEST_WAIT, Logins, Throttle

from .support import cheap_hasher


class ThrottleTests(SynchronousTestCase):
    def test_waits_double_up_to_a_bound(self) -> None:
        clock = Clock()
        throttle = Throttle(clock, 3)
        waits = []
        for _ in range(12):
            throttle.failed("x")
            waits.append(throttle.wait("x"))
        self.assertEqual(waits[:6], [0, 0, 1, 2, 4, 8])
        self.assertEqual(waits[-1], LONGEST_WAIT)
        clock.advance(LONGEST_WAIT)
        self.assertEqual(throttle.wait("x"), 0)
        self.assertEqual(throttle.wait("y"), 0)

    def test_forgets(self) -> None:
        clock = Clock()
        throttle = Throttle(clock, 1)
        throttle.failed("x")
        throttle.failed("x")
        clock.advance(logins.FORGET_AFTER)
        throttle.failed("x")
        self.assertEqual(throttle.wait("x"), 1)
        throttle.succeeded("x")
        self.assertEqual(throttle.wait("x"), 0)

    def test_memory_is_bounded(self) -> None:
        self.patch(logins, "REMEMBERED", 5)
        throttle = Throttle(Clock(), 1)
        for key in range(10):
            throttle.failed(key)
        self.assertEqual([throttle.wait(key) for key in range(10)], [0] * 5 + [1] * 5)


class LoginsTests(TestCase):
    def setUp(self) -> None:
        self.patch(logins, "PasswordHasher", cheap_hasher)
        self.logins = Logins(reactor, Clock())
        self.logins.start()
        self.addCleanup(self.logins.stop)

    async def test_right_and_wrong(self) -> None:
        hashed = await self.logins.hash("secret")
        self.assertTrue(hashed.startswith("$argon2id$"))
        self.assertTrue(await self.logins.verify(hashed, "secret"))
        self.assertFalse(await self.logins.verify(hashed, "Secret"))
        self.assertFalse(await self.logins.verify("nonsense", "secret"))

    async def test_an_unknown_user_is_never_right(self) -> None:
        for password in ("", "secret"):
            self.assertFalse(await self.logins.verify(None, password))

    def test_a_stranger_locks_nobody_out(self) -> None:
        for _ in range(FREE_TRIES + 3):
            self.logins.failed("stranger", "alice")
        self.assertRaises(TooManyAttempts, self.logins.admit, "stranger", "alice")
        self.logins.admit("home", "alice")
