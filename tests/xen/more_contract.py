"""The parts of the public contract that L{tests.xen.check_contract} leaves; to move domains takes a second machine."""

from __future__ import annotations

from fluidvm.conformance import driver_contract

from .check_contract import OWN, XenFactory
from .check_contract import timeout as timeout  # trial reads it here

globals().update({name: case for name, case in driver_contract(XenFactory()).items() if name not in OWN})
