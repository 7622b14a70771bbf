"""FluidVM's tests."""

import os
import sys
from pathlib import Path

from .no_processes import forbid_processes

TIMEOUT = 300.0
"""Seconds that a test waits for what must come: only a failure takes so long, and no busy machine takes longer."""

if trial := sys.modules.get("twisted.trial.util"):
    # It gives a test two minutes if that says nothing else, which is little on a busy machine.
    trial.DEFAULT_TIMEOUT_DURATION = 2 * TIMEOUT  # type: ignore[attr-defined]
    # Not where a test's own program imports from here, which may have nothing but Python.
    from .sentences import look_at_faults

    look_at_faults()

if os.environ.get("FLUIDVM_TESTS") == "unit" and Path(sys.argv[0]).name == "workertrial.py":
    # Trial itself, which starts the workers, may start processes; the workers, which run the tests, may not.
    forbid_processes()
