"""
More tests on the real Xen: C{python -m twisted.trial tests.xen.more}.

An emulated machine takes long for them, and a second one as much again: C{make test} leaves them to C{make full}. They are
about the abilities that the driver shares with kvm's, whose own tests C{make test} runs; about each kind of guest; and about
moves from one machine to another.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.runner import TestLoader

import tests.xen


class MoreLoader(TestLoader):
    """Finds the modules by their names' beginning."""

    modulePrefix = "more_"


def testSuite() -> Any:
    """Find them, as trial asks."""
    return MoreLoader().loadPackage(tests.xen)
