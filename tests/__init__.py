"""FluidVM's tests."""

import os
import sys
from pathlib import Path

from .no_processes import forbid_processes

if os.environ.get("FLUIDVM_TESTS") == "unit" and Path(sys.argv[0]).name == "workertrial.py":
    # Trial itself, which starts the workers, may start processes; the workers, which run the tests, may not.
    forbid_processes()
