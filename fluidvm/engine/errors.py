"""What a task's or a call's failure is called on the wire."""

from __future__ import annotations

import secrets

from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm import driver
from fluidvm.model import faults
from fluidvm.model.faults import ApiFault, InternalError, sentence
from fluidvm.model.xmlvalue import clean

LONGEST = 10_000
"""Characters of a driver's error that are told."""
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
    Turn any exception into the fault that tells of it.

    @param what: whose failure it is, for the log: a method's name. Never its arguments.
    @return: a documented fault; for a bug an L{InternalError} with an incident id that the log has too.
    """
    if isinstance(error, ApiFault):
        return error
    for raised, fault in _DRIVER_FAULTS:
        if isinstance(error, raised):
            # A hypervisor's or a guest's words are in it.
            return fault(sentence(clean(str(error)[: LONGEST - 1])) or f"The hypervisor failed during {what}.")
    incident = secrets.token_hex(6)
    _log.failure("Incident {incident}: {what} failed", Failure(error), incident=incident, what=what)
    return InternalError(f"The server failed during {what}; for the reason, see its log under incident {incident}.")
