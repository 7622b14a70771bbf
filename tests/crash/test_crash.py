"""
The crash harness, as much of it as each run of the tests can afford; a failing seed is in the failure's words.

C{FLUIDVM_CRASH_KILLS} in the environment says how often the simulator's server is killed; libvirt's a tenth of that.
"""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from tests.real.real_host import shared_host

from .harness import Findings, run

KILLS = int(os.environ.get("FLUIDVM_CRASH_KILLS", "20"))
PER_RUN = 20


class CrashTests(SynchronousTestCase):
    def check(self, seed: int, kills: int, findings: Findings, libvirt: str = "") -> None:
        """Nothing was found wrong; and there was something to look at."""
        replay = f"python -m tests.crash.harness --seed {seed} --kills {kills}{libvirt}"
        self.assertEqual(findings.wrong, [], f"replay: {replay}")
        self.assertGreater(findings.contexts, kills // 4, f"hardly anything was done: {findings}; replay: {replay}")

    def test_simulator(self) -> None:
        first = random.randrange(10**6)
        seeds = range(first, first + max(1, KILLS // PER_RUN))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for seed, findings in zip(seeds, pool.map(lambda seed: run(seed, PER_RUN), seeds), strict=True):
                self.check(seed, PER_RUN, findings)

    def test_libvirt(self) -> None:
        seed = int(time.time())
        kills = max(5, KILLS // 10)
        self.check(seed, kills, run(seed, kills, shared_host(), 2.0), " --libvirt")
