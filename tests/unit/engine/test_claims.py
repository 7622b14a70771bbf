from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.engine.claims import Claim, Claims, Key

A, B, C = ("vm", 1), ("vm", 2), ("disk", 1)


class ClaimsTests(SynchronousTestCase):
    def test_claims_wait_in_order(self) -> None:
        claims = Claims()
        first = self.successResultOf(claims.take([A]))
        second, third = claims.take([A, C]), claims.take([C])
        self.assertNoResult(second)
        self.assertNoResult(third)  # fair: second queued for the disk earlier
        claims.release(first)
        held = self.successResultOf(second)
        self.assertNoResult(third)
        claims.release(held)
        self.successResultOf(third)

    def test_a_busy_object_delays_nobody_else(self) -> None:
        claims = Claims()
        claims.take([A])
        claims.take([A])
        self.successResultOf(claims.take([B]))

    def test_the_same_object_twice(self) -> None:
        claims = Claims()
        claims.release(self.successResultOf(claims.take([A, A])))
        self.assertFalse(claims.held(A))

    def test_a_cancelled_claim_leaves_the_queue(self) -> None:
        claims = Claims()
        first = self.successResultOf(claims.take([A]))
        second, third = claims.take([A]), claims.take([A])
        second.cancel()
        self.failureResultOf(second, CancelledError)
        claims.release(first)
        self.successResultOf(third)

    @given(st.lists(st.frozensets(st.sampled_from([A, B, C]), min_size=1), max_size=30), st.randoms())
    def test_claims_exclude_each_other_and_all_are_granted(self, wishes: list[frozenset[Key]], random: object) -> None:
        claims, finished = Claims(), 0
        granted: list[Any] = []

        def grant(claim: Claim) -> None:
            for other in granted:
                self.assertFalse(claim.keys & other.keys)
            granted.append(claim)

        for wish in wishes:
            claims.take(wish).addCallback(grant)
        while granted:
            random.shuffle(granted)  # type: ignore[attr-defined]
            claims.release(granted.pop())
            finished += 1
        self.assertEqual(finished, len(wishes))
        self.assertFalse(any(map(claims.held, (A, B, C))))

    def test_watches_are_called_for_claims(self) -> None:
        """They are called before the claim is granted, once for each claim, and not after their end."""
        claims, heard = Claims(), []
        watch = claims.watch([("disk", 1), ("vm", 1)], lambda: heard.append(claims.held(("disk", 1))))
        first = self.successResultOf(claims.take([("disk", 1), ("disk", 2)]))
        self.assertEqual(heard, [False])
        self.assertNoResult(claims.take([("disk", 1)]))
        claims.take([("disk", 3)])
        self.assertEqual(heard, [False, True])
        watch.end()
        watch.end()
        claims.take([("vm", 1)])
        claims.release(first)
        self.assertEqual(len(heard), 2)
        self.assertEqual(claims._watches, {})
