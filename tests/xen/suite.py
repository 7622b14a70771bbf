"""
All tests on the real Xen: C{python -m twisted.trial tests.xen.suite}.

They are apart from the others, for the machine takes its time: the names of their modules begin with C{check_}, so that a
run of all of C{tests} leaves them to C{tox -e xen}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.runner import TestLoader

import tests.xen


class CheckLoader(TestLoader):
    modulePrefix = "check_"


def testSuite() -> Any:
    """Find them, as trial asks."""
    return CheckLoader().loadPackage(tests.xen)
