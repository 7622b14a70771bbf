from __future__ import annotations

import secrets
from math import ceil

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fluidvm import api
from fluidvm.auth import sessions
from fluidvm.auth.sessions import FREE_COOKIES, LONGEST_CALL, HeldBack, PendingTask, Session, Sessions, UnderWay
from fluidvm.model.declare import METHODS
from fluidvm.model.faults import InvalidParams, NotLoggedIn, TooLarge

assert api  # importing it declares the methods


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

    def test_other_calls_keep_it_only_with_any_call(self) -> None:
        for any_call in (False, True):
            clock, found = self.make(any_call)
            session = found.open(1, "a", 0)
            clock.advance(20)
            found.find(session.cookie, "a")
            clock.advance(20)
            self.assertEqual(len(found), int(any_call))
            found.stop()

    def test_a_running_call_keeps_it(self) -> None:
        """It had 5 s left when the call began. Afterwards it has the duration of the call, at most the full timeout."""
        for any_call, took, left in (
            (False, 0, 5),
            (False, 3, 3),
            (False, 20, 20),
            (False, 100, 30),
            (True, 0, 30),
            (True, 3, 30),
            (True, 100, 30),
        ):
            clock, found = self.make()
            found._any_call = any_call
            session = found.open(1, "a", 0)
            clock.advance(25)
            with UnderWay(found, [session]):
                for _ in range(took):
                    clock.advance(1)
                    self.assertTrue(found.lives(session))
                    self.assertEqual(found.all(), [session])
            self.assertEqual(found.left(session), left, (any_call, took))
            clock.advance(left - 0.1)
            self.assertTrue(found.lives(session))
            clock.advance(0.1)
            self.assertFalse(found.lives(session))
            self.assertEqual((len(found), clock.getDelayedCalls()), (0, []))

    def test_a_call_leaves_enough_time_for_the_next_ping(self) -> None:
        clock, found = self.make()
        session, other = found.open(1, "a", 0), found.open(1, "a", 0)
        for _ in range(5):
            found.touch(session)
            clock.advance(10)
            with UnderWay(found, [session]):
                clock.advance(25)
            clock.advance(20)
        self.assertTrue(found.lives(session))
        self.assertFalse(found.lives(other))
        found.stop()

    def test_a_call_does_not_shorten_it(self) -> None:
        clock, found = self.make()
        session = found.open(1, "a", 0)
        with UnderWay(found, [session]):
            clock.advance(2)
            found.touch(session)  # by another connection
        self.assertEqual(found.left(session), 30)
        found.stop()

    def test_calls_at_the_same_time(self) -> None:
        clock, found = self.make()
        session = found.open(1, "a", 0)
        with UnderWay(found, [session, session]) as long:
            long.add(session)
            with UnderWay(found, [session]):
                clock.advance(20)
            clock.advance(40)
            self.assertTrue(found.lives(session))
        self.assertEqual((found.left(session), session.calls), (30, 0))
        found.stop()

    def test_an_endless_call_does_not_keep_it_for_ever(self) -> None:
        for any_call in (False, True):
            clock, found = self.make(any_call)
            session = found.open(1, "a", 0)
            with UnderWay(found, [session]):
                clock.advance(30 + LONGEST_CALL - 1)
                self.assertTrue(found.lives(session))
                clock.advance(1)
                self.assertFalse(found.lives(session))
                self.assertRaises(NotLoggedIn, found.find, session.cookie, "a")
            self.assertEqual((len(found), session.ended, clock.getDelayedCalls()), (0, True, []))

    def test_many_long_calls_without_a_ping_do_not_keep_it_for_ever(self) -> None:
        clock, found = self.make()
        session = found.open(1, "a", 0)
        calls = 0
        while found.lives(session):
            calls += 1
            with UnderWay(found, [session]):
                clock.advance(25)
        self.assertEqual(calls, ceil((30 + LONGEST_CALL) / 25))

    def test_a_session_that_ends_during_its_call_stays_ended(self) -> None:
        for end in ("close", "stop"):
            for any_call in (False, True):
                clock, found = self.make(any_call)
                session = found.open(1, "a", 0)
                with UnderWay(found, [session]):
                    found.close(session) if end == "close" else found.stop()
                    clock.advance(30)
                self.assertEqual((len(found), found.lives(session), clock.getDelayedCalls()), (0, False, []))
                self.assertEqual(found._by_user[1] if end == "close" else 0, 0)

    def test_the_limit_of_sessions_per_user(self) -> None:
        self.patch(sessions, "MOST_SESSIONS", 3)
        clock, found = self.make()
        first, *_ = [found.open(1, "a", 0) for _ in range(3)]
        self.assertIn("logout", str(self.assertRaises(TooLarge, found.open, 1, "b", 0)))
        found.open(2, "a", 0)
        found.close(first)
        found.close(first)
        found.open(1, "a", 0)
        self.assertRaises(TooLarge, found.open, 1, "a", 0)
        clock.advance(31)
        self.assertEqual(len([found.open(1, "a", 0) for _ in range(3)]), 3)

    def test_the_limit_of_pending_arguments(self) -> None:
        """In all sessions of a user together."""
        self.patch(sessions, "MOST_HELD", 1000)
        _, found = self.make()
        one, two, other = found.open(1, "a", 0), found.open(1, "a", 0), found.open(2, "a", 0)

        def queue(session: Session, size: int) -> None:
            session.queue(PendingTask(METHODS["set_vm_name"], 1, (1, "x" * size), frozenset()))

        queue(one, 600)
        self.assertIn("commit_tasks", str(self.assertRaises(TooLarge, queue, two, 600)))
        self.assertEqual(two.pending, [])
        queue(other, 600)
        taken = one.take()
        queue(two, 600)
        one.put_back(taken)  # a commit that failed leaves them pending
        self.assertRaises(TooLarge, queue, two, 1)
        found.close(two)
        taken = one.take()
        queue(one, 600)
        one.take()
        found.close(one)
        one.put_back(taken)
        self.assertEqual(one.pending, [])
        queue(found.open(1, "a", 0), 900)

    def test_bound_to_its_address(self) -> None:
        _, found = self.make()
        self.assertRaises(NotLoggedIn, found.find, found.open(1, "a", 0).cookie, "b")

    def test_a_malformed_cookie_counts_as_an_invalid_one(self) -> None:
        _, found = self.make()
        odd = [2**31, -(2**31) - 1, 10**31, "5", True, 5.0, None, b"5", [5], {}]
        for place in range(FREE_COOKIES):
            self.assertRaises(InvalidParams, found.find, odd[place % len(odd)], "a")
        for cookie in (2**31, "5", 5):
            self.assertRaises(HeldBack, found.find, cookie, "a")
        self.assertGreater(found.hold("a"), 0)
        self.assertEqual(found.hold("b"), 0)

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
    def test_exactly_the_sessions_without_a_ping_expire(self, steps: list[tuple[str, int, float]]) -> None:
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
