"""Passwords: what is taken for one, and how it is hashed."""

from __future__ import annotations

from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from fluidvm.model.faults import InvalidParams


def check_password(password: str, name: str, least: int) -> None:
    """
    Refuse a password that would be guessed.

    Length, not the user's name, and not among the 30,000 that people use most (the list of the package zxcvbn): what NIST
    SP 800-63B, section 5.1.1.2, asks for.

    @param name: the user's.
    @param least: characters.
    @raise InvalidParams: says why, never the password.
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
    Argon2id (RFC 9106).

    @param memory: KiB that one hash takes.
    @param rounds: how often it goes over them.
    @param lanes: how many threads one hash uses.
    """

    def __init__(self, memory: int, rounds: int, lanes: int) -> None:
        self._argon2 = PasswordHasher(time_cost=rounds, memory_cost=memory, parallelism=lanes)
        # What an unknown user's password is compared with, so that it takes the same time.
        self._nobody = self._argon2.hash("")

    def hash(self, password: str) -> str:
        """Hash a password. Blocks."""
        return self._argon2.hash(password.encode("utf-8", "surrogatepass"))

    def verify(self, hashed: str | None, password: str) -> bool:
        """
        Tell whether a password is right. Blocks.

        @param hashed: as L{hash} made it; C{None} (an unknown user) takes the same time and is never right.
        """
        try:
            right = self._argon2.verify(hashed or self._nobody, password.encode("utf-8", "surrogatepass"))
        except (VerificationError, InvalidHashError):
            return False
        return right and hashed is not None

    def outdated(self, hashed: str) -> bool:
        """Tell whether a hash was made with other parameters than these."""
        return self._argon2.check_needs_rehash(hashed)
