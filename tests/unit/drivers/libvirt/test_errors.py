"""libvirt's errors are converted to the driver's."""

from __future__ import annotations

import libvirt
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DriverError, NoSuchThing, Unreachable, WrongState
from fluidvm.drivers.libvirt.errors import translate


def libvirt_error(code: int) -> libvirt.libvirtError:
    """An error of libvirt with a code."""
    error = libvirt.libvirtError("asked in vain")
    error.err = (code, 0, "it said why", 2, None, None, None, 0, 0)
    return error


class TranslateTests(SynchronousTestCase):
    def meaning(self, code: int, alive: bool = True) -> type[DriverError]:
        return type(translate(libvirt_error(code), "command in domain web1", alive))

    def test_a_silent_agent_by_older_and_newer_codes(self) -> None:
        self.assertIs(self.meaning(86), WrongState)
        self.assertIs(self.meaning(112), WrongState)

    def test_others(self) -> None:
        self.assertIs(self.meaning(libvirt.VIR_ERR_NO_DOMAIN), NoSuchThing)
        self.assertIs(self.meaning(libvirt.VIR_ERR_INTERNAL_ERROR), DriverError)
        self.assertIs(self.meaning(libvirt.VIR_ERR_NO_DOMAIN, alive=False), Unreachable)
