"""
Converts libvirt's errors to the driver's, by code and never by text.

The codes: virErrorNumber in U{https://libvirt.org/html/libvirt-virterror.html}.
"""

from __future__ import annotations

import errno

import libvirt

from fluidvm.driver import AlreadyThere, DriverError, NoSuchThing, Unreachable, Unsupported, WrongState

AGENT_SILENT = frozenset({libvirt.VIR_ERR_AGENT_UNRESPONSIVE, 112})
"""
The error codes of libvirt when a guest agent doesn't answer. 112 is C{VIR_ERR_AGENT_COMMAND_TIMEOUT}, which newer hosts
return for commands, and for which the local libvirt may have no name.
"""

_MEANINGS: dict[int, type[DriverError]] = {
    **dict.fromkeys(AGENT_SILENT, WrongState),
    libvirt.VIR_ERR_NO_DOMAIN: NoSuchThing,
    libvirt.VIR_ERR_NO_STORAGE_POOL: NoSuchThing,
    libvirt.VIR_ERR_NO_STORAGE_VOL: NoSuchThing,
    libvirt.VIR_ERR_NO_NETWORK: NoSuchThing,
    libvirt.VIR_ERR_DEVICE_MISSING: NoSuchThing,
    libvirt.VIR_ERR_DOM_EXIST: AlreadyThere,
    libvirt.VIR_ERR_STORAGE_VOL_EXIST: AlreadyThere,
    libvirt.VIR_ERR_OPERATION_INVALID: WrongState,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: WrongState,
    libvirt.VIR_ERR_RESOURCE_BUSY: WrongState,
    libvirt.VIR_ERR_NO_SUPPORT: Unsupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_NO_CONNECT: Unreachable,
    libvirt.VIR_ERR_INVALID_CONN: Unreachable,
    libvirt.VIR_ERR_RPC: Unreachable,
    libvirt.VIR_ERR_LIBSSH: Unreachable,
    libvirt.VIR_ERR_SSH: Unreachable,
    libvirt.VIR_ERR_GNUTLS_ERROR: Unreachable,
}
_REFUSED = {libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_CANCELLED, libvirt.VIR_ERR_AUTH_UNAVAILABLE}


def code_of(error: libvirt.libvirtError) -> int:
    """An error's code; 0 if it has none."""
    return int(error.get_error_code() or 0)


def translate(error: libvirt.libvirtError, subject: str, alive: bool) -> DriverError:
    """
    Convert an error of libvirt.

    @param subject: the operation, as the beginning of the sentence: C{start of domain web1}.
    @param alive: whether the connection is still alive; if not, the code means nothing.
    """
    words = f"{subject}: {error.get_error_message() or error}".rstrip(". ") + "."
    if not alive:
        return Unreachable(words)
    code = code_of(error)
    # A system call of the daemon failed; int1 is its errno (virReportSystemError).
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() == errno.ENOENT:
        return NoSuchThing(words)
    return _MEANINGS.get(code, DriverError)(words)


def translate_open(error: libvirt.libvirtError, uri: str) -> DriverError:
    """Convert the error of a connection that couldn't be opened: all but refusals mean that the host didn't answer."""
    words = f"{uri}: {error.get_error_message() or error}".rstrip(". ") + "."
    return DriverError(words) if code_of(error) in _REFUSED else Unreachable(words)
