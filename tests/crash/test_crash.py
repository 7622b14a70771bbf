"""The crash harness, as much of it as each run of the tests can afford; a failing seed is in the failure's words."""

from __future__ import annotations

import os
import random
import time

from twisted.trial.unittest import SynchronousTestCase

from ..drivers.real_host import shared_host
from .harness import Findings, run

KILLS = int(os.environ.get("FLUIDVM_CRASH_KILLS", "60"))
PER_RUN = 20


class CrashTests(SynchronousTestCase):
    def check(self, seed: int, findings: Findings, libvirt: str = "") -> None:
        self.assertGreater(findings.contexts, 10)
        replay = f"python -m tests.crash.harness --seed {seed} --kills {PER_RUN}{libvirt}"
        self.assertEqual(findings.wrong, [], f"replay: {replay}")

    def test_simulator(self) -> None:
        first = random.randrange(10**6)
        for seed in range(first, first + max(1, KILLS // PER_RUN)):
            self.check(seed, run(seed, PER_RUN))

    def test_libvirt(self) -> None:
        seed = int(time.time())
        self.check(seed, run(seed, max(5, KILLS // 10), shared_host(), 2.0), " --libvirt")
