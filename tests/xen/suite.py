"""
The tests on one real Xen: C{python -m twisted.trial tests.xen.suite}.

They are apart from the others, for the machine takes its time, and in one process, for there is one machine: the names of
their modules begin with C{check_}, so that trial finds them by this name alone.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.runner import TestLoader

import tests.xen


class CheckLoader(TestLoader):
    """Finds the modules by their names' beginning."""

    modulePrefix = "check_"


def testSuite() -> Any:
    """Find them, as trial asks."""
    return CheckLoader().loadPackage(tests.xen)
