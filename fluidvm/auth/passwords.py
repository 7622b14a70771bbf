"""Passwords: which ones are accepted, and how they are hashed."""

from __future__ import annotations

from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from fluidvm.model.faults import InvalidParams


def check_password(password: str, name: str, least: int) -> None:
    """
    Refuse a password that is easy to guess.

    It must be long enough, must not be the user's name, and must not be among the 30,000 most common passwords (the list of
    the package zxcvbn), as NIST SP 800-63B, section 5.1.1.2, requires.

    @param name: the user's name.
    @param least: minimum length in characters.
    @raise InvalidParams: the password is refused; the fault says why, without quoting it.
    """
    if len(password) < least:
        raise InvalidParams(f"password: is shorter than {least} characters.")
    if name and password.casefold() in (name.casefold(), name.casefold()[::-1]):
        raise InvalidParams("password: must not be the user's name, nor that name reversed.")
    if password.casefold() in _common():
        raise InvalidParams("password: is one of the most common passwords; choose another.")


@cache
def _common() -> frozenset[str]:
    return frozenset(FREQUENCY_LISTS["passwords"])


class Hasher:
    """
    Hashes passwords with Argon2id (RFC 9106).

    @param memory: KiB of memory for one hash.
    @param rounds: number of passes over the memory.
    @param lanes: number of threads for one hash.
    """

    def __init__(self, memory: int, rounds: int, lanes: int) -> None:
        self._argon2 = PasswordHasher(time_cost=rounds, memory_cost=memory, parallelism=lanes)
        # For unknown users: comparing with this hash takes the same time.
        self._nobody = self._argon2.hash("")

    def hash(self, password: str) -> str:
        """Hash a password. Blocks."""
        return self._argon2.hash(password.encode("utf-8", "surrogatepass"))

    def verify(self, hashed: str | None, password: str) -> bool:
        """
        Return whether a password is correct. Blocks.

        @param hashed: the result of L{hash}; C{None} for an unknown user, which takes the same time and is never correct.
        """
        try:
            right = self._argon2.verify(hashed or self._nobody, password.encode("utf-8", "surrogatepass"))
        except (VerificationError, InvalidHashError):
            return False
        return right and hashed is not None

    def outdated(self, hashed: str) -> bool:
        """Return whether a hash was made with different parameters."""
        return self._argon2.check_needs_rehash(hashed)
