"""
A long hunt with the crash harness: other seeds as long as there is time, on the simulator and on a private libvirt host.

    python -m tests.crash.soak --minutes 60

prints each run, and fails with how to repeat the ones that found something.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lab.host import LibvirtHost

from .harness import Findings, run

KILLS = 20
EVERY = 4
"""One run of so many is on libvirt, where work takes longer."""


def main() -> None:
    """Hunt until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    deadline = time.monotonic() + 60 * parser.parse_args().minutes
    host = LibvirtHost(Path(tempfile.mkdtemp(prefix="fluidvm-")))
    found: list[str] = []
    number = 0
    try:
        host.start()
        while time.monotonic() < deadline:
            seed = random.randrange(10**6)
            number += 1
            on_libvirt = number % EVERY == 0
            findings = run(seed, KILLS, host, 2.0) if on_libvirt else run(seed, KILLS)
            replay = f"python -m tests.crash.harness --seed {seed} --kills {KILLS}{' --libvirt' if on_libvirt else ''}"
            report(replay, findings)
            if findings.wrong:
                found.append(replay)
    finally:
        host.stop()
        shutil.rmtree(host.directory, ignore_errors=True)
    print(f"{number} runs, {number * KILLS} kills, {len(found)} of them found something")  # noqa: T201
    sys.exit("\n".join(found) or 0)


def report(replay: str, findings: Findings) -> None:
    """Print one run."""
    looked = f"{findings.contexts} contexts, {findings.tasks} tasks, {findings.vms} VMs"
    print(f"{replay}: {looked}, {len(findings.wrong)} wrong", *findings.wrong, sep="\n    ", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
