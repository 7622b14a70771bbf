"""CPU shares on hosts whose control groups have another scale."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import Shares
from fluidvm.drivers.libvirt.shares import from_host, to_host

V1, V2 = 1024, 100


class WeightTests(SynchronousTestCase):
    def test_version_1_counts_as_plans_do(self) -> None:
        for shares in (2, 512, 1024, 262144):
            self.assertEqual((to_host(shares, V1), from_host(shares, V1)), (shares, shares))

    def test_version_2_has_another_scale(self) -> None:
        self.assertEqual([to_host(shares, V2) for shares in (2, 512, 1024, 2048, 262144)], [1, 50, 100, 200, 10000])
        self.assertEqual(from_host(100, V2), Shares().cpu_shares)

    @given(st.integers(2, 262144))
    def test_version_2_takes_every_weight(self, shares: int) -> None:
        weight = to_host(shares, V2)
        self.assertTrue(1 <= weight <= 10000)
        self.assertEqual(to_host(from_host(weight, V2), V2), weight, "what was read is written back as it was")
