"""The crash harness, as much of it as each run of the tests can afford; a failing seed is in the failure's words."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.harness import Findings, run
from tests.real.real_host import shared_host

KILLS = int(os.environ.get("FLUIDVM_CRASH_KILLS", "200"))
PER_RUN = 20


class CrashTests(SynchronousTestCase):
    def check(self, seed: int, findings: Findings, libvirt: str = "") -> None:
        self.assertGreater(findings.contexts, 0)
        replay = f"python -m tests.crash.harness --seed {seed} --kills {PER_RUN}{libvirt}"
        self.assertEqual(findings.wrong, [], f"replay: {replay}")

    def test_simulator(self) -> None:
        first = random.randrange(10**6)
        looked_at = 0
        seeds = range(first, first + max(1, KILLS // PER_RUN))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for seed, findings in zip(seeds, pool.map(lambda seed: run(seed, PER_RUN), seeds), strict=True):
                self.check(seed, findings)
                looked_at += findings.contexts
        self.assertGreater(looked_at, KILLS // 4)

    def test_libvirt(self) -> None:
        seed = int(time.time())
        self.check(seed, run(seed, max(5, KILLS // 10), shared_host(), 2.0), " --libvirt")
