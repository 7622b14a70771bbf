"""Text that is passed to guests as one line."""

from __future__ import annotations

from fluidvm.driver import DriverError


def one_line(what: str, text: str) -> str:
    """Check a line. @raise DriverError: it isn't exactly one line; the message doesn't repeat it, as it may be a secret."""
    if not text or not text.isprintable():
        raise DriverError(f"{what} must be one line without control characters.")
    return text
