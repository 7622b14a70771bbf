"""Every fault that a test's server makes is looked at: it is told in sentences, with exactly one full stop at the end."""

from __future__ import annotations

import re

from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm.model.faults import ApiFault

_log = Logger()

_QUOTED = re.compile(r'"[^"]*"')
SHORT = ("cancelled",)
"""What the wire contract has word by word, beside C{skipped: task N failed}."""


class NoSentence(Exception):
    """What a fault says isn't told as it should be."""


def is_told(text: str) -> bool:
    """Whether a fault's words are as people are told them."""
    if text in SHORT or text.startswith("skipped: task "):
        return True
    text = _QUOTED.sub('""', text)
    return text.endswith(".") and not text.endswith("..") and text.strip() == text and ".:" not in text


def look_at_faults() -> None:
    """Have a fault that isn't told so logged as an error, with which the test fails."""
    make = ApiFault.__init__

    def checked(self: ApiFault, text: str) -> None:
        if not is_told(text):
            _log.failure("A fault isn't told in sentences", Failure(NoSentence(text)))
        make(self, text)

    ApiFault.__init__ = checked  # type: ignore[method-assign]
