from __future__ import annotations

import secrets

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.faults import NotLoggedIn
from fluidvm.sessions import Session, Sessions


class SessionsTests(SynchronousTestCase):
    def make(self, any_call: bool = False) -> tuple[Clock, Sessions]:
        clock = Clock()
        return clock, Sessions(clock, 30, any_call, clock.seconds)

    def test_expires_without_ping(self) -> None:
        clock, found = self.make()
        session = found.open(1, "a", 0)
        clock.advance(29.9)
        self.assertIs(found.find(session.cookie, "a"), session)
        clock.advance(0.1)
        self.assertRaises(NotLoggedIn, found.find, session.cookie, "a")
        self.assertEqual(len(found), 0)

    def test_ping_keeps_it(self) -> None:
        clock, found = self.make()
        session, other = found.open(1, "a", 0), found.open(1, "a", 0)
        for _ in range(5):
            clock.advance(20)
            found.touch(session)
        self.assertIs(found.find(session.cookie, "a"), session)
        self.assertRaises(NotLoggedIn, found.find, other.cookie, "a")

    def test_other_calls_do_not_keep_it_unless_told(self) -> None:
        for any_call in (False, True):
            clock, found = self.make(any_call)
            session = found.open(1, "a", 0)
            clock.advance(20)
            found.find(session.cookie, "a")
            clock.advance(20)
            self.assertEqual(len(found), int(any_call))
            found.stop()

    def test_bound_to_its_address(self) -> None:
        _, found = self.make()
        self.assertRaises(NotLoggedIn, found.find, found.open(1, "a", 0).cookie, "b")

    def test_cookies_are_random_and_never_zero_nor_in_use(self) -> None:
        _, found = self.make()
        first = found.open(1, "a", 0).cookie
        drawn = iter([2**31, first + 2**31, 2**31 + 5])  # 0, the one in use, 5
        self.patch(secrets, "randbits", lambda bits: next(drawn))
        self.assertEqual(found.open(1, "a", 0).cookie, 5)

    def test_cookies_use_the_whole_range(self) -> None:
        _, found = self.make()
        for drawn, cookie in ((0, -(2**31)), (2**32 - 1, 2**31 - 1)):
            self.patch(secrets, "randbits", lambda bits, drawn=drawn: drawn)
            self.assertEqual(found.open(1, "a", 0).cookie, cookie)

    def test_closing_a_user_leaves_others(self) -> None:
        _, found = self.make()
        mine, other = found.open(1, "a", 0), found.open(2, "a", 0)
        found.close_user(1)
        self.assertRaises(NotLoggedIn, found.find, mine.cookie, "a")
        self.assertIs(found.find(other.cookie, "a"), other)

    @given(st.lists(st.tuples(st.sampled_from(["open", "touch"]), st.integers(0, 5), st.floats(0, 20)), max_size=40))
    def test_exactly_those_expire_that_did_not_ping(self, steps: list[tuple[str, int, float]]) -> None:
        clock, found = self.make()
        alive: list[tuple[Session, float]] = []
        for what, which, pause in steps:
            if what == "open":
                alive.append((found.open(1, "a", 0), clock.seconds()))
            elif which < len(alive):
                session, _ = alive[which]
                found.touch(session)
                alive[which] = (session, clock.seconds())
            clock.advance(pause)
            alive = [(session, last) for session, last in alive if session.expires > clock.seconds()]
            self.assertEqual(len(found), len(alive))
        found.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
