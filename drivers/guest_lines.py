"""What goes into guests as a line of text."""

from __future__ import annotations

from fluidvm.driver import DriverError


def one_line(what: str, text: str) -> str:
    """@raise DriverError: it is more than a line, or nothing. Doesn't repeat it: it may be a secret."""
    if not text or not text.isprintable():
        raise DriverError(f"{what} must be one line without control characters.")
    return text
