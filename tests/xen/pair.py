"""
The tests that take two machines with Xen: C{python -m twisted.trial tests.xen.pair}.

The second machine takes as much of the computer again: C{make test} leaves them to C{make full}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.runner import TestLoader

import tests.xen


class PairLoader(TestLoader):
    """Finds the modules by their names' beginning."""

    modulePrefix = "pair_"


def testSuite() -> Any:
    """Find them, as trial asks."""
    return PairLoader().loadPackage(tests.xen)
