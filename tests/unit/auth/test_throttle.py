from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.auth import throttle
from fluidvm.auth.throttle import LONGEST_WAIT, Throttle, network_of


class ThrottleTests(SynchronousTestCase):
    def test_waits_double_up_to_a_bound(self) -> None:
        clock = Clock()
        counted = Throttle(clock, 3)
        waits = []
        for _ in range(12):
            counted.failed("x")
            waits.append(counted.wait("x"))
        self.assertEqual(waits[:6], [0, 0, 1, 2, 4, 8])
        self.assertEqual(waits[-1], LONGEST_WAIT)
        clock.advance(LONGEST_WAIT)
        self.assertEqual(counted.wait("x"), 0)
        self.assertEqual(counted.wait("y"), 0)

    def test_forgets(self) -> None:
        clock = Clock()
        counted = Throttle(clock, 1)
        counted.failed("x")
        counted.failed("x")
        clock.advance(throttle.FORGET_AFTER)
        counted.failed("x")
        self.assertEqual(counted.wait("x"), 1)
        counted.succeeded("x")
        self.assertEqual(counted.wait("x"), 0)

    def test_memory_is_bounded(self) -> None:
        self.patch(throttle, "REMEMBERED", 5)
        counted = Throttle(Clock(), 1)
        for key in range(10):
            counted.failed(key)
        self.assertEqual([counted.wait(key) for key in range(10)], [0] * 5 + [1] * 5)


class NetworkTests(SynchronousTestCase):
    def test_an_ipv6_client_has_a_whole_network(self) -> None:
        self.assertEqual(network_of("2001:db8:1:2:3::4"), network_of("2001:db8:1:2::9"))
        self.assertNotEqual(network_of("2001:db8:1:2::4"), network_of("2001:db8:1:3::4"))
        self.assertEqual(network_of("fe80::1%eth0"), "fe80::/64")

    def test_other_addresses_are_unchanged(self) -> None:
        for address in ("192.0.2.1", "unix", "a:b"):
            self.assertEqual(network_of(address), address)
