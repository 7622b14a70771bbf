"""Converts the exceptions of tasks and calls to faults."""

from __future__ import annotations

import secrets

from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm import driver
from fluidvm.model import faults
from fluidvm.model.faults import ApiFault, InternalError, sentence
from fluidvm.model.xmlvalue import clean

LONGEST = 10_000
"""Maximum number of characters of a driver's error in a fault."""
_log = Logger()

_DRIVER_FAULTS: tuple[tuple[type[driver.DriverError], type[ApiFault]], ...] = (
    (driver.NoSuchThing, faults.NotFound),
    (driver.AlreadyThere, faults.Conflict),
    (driver.WrongState, faults.Conflict),
    (driver.Unsupported, faults.Unsupported),
    (driver.Unreachable, faults.Unavailable),
    (driver.DriverError, faults.Unavailable),
)


def fault_of(error: Exception, what: str) -> ApiFault:
    """
    Convert any exception to a fault.

    @param what: the operation that failed, for the log: a method's name, never its arguments.
    @return: a documented fault; for a bug, an L{InternalError} with an incident id that is also in the log.
    """
    if isinstance(error, ApiFault):
        return error
    for raised, fault in _DRIVER_FAULTS:
        if isinstance(error, raised):
            # The error can contain text from a hypervisor or a guest.
            return fault(sentence(clean(str(error)[: LONGEST - 1])) or f"The hypervisor failed during {what}.")
    incident = secrets.token_hex(6)
    _log.failure("Incident {incident}: {what} failed", Failure(error), incident=incident, what=what)
    return InternalError(f"The server failed during {what}; for the reason, see its log under incident {incident}.")
