"""
Which database a directory of images belongs to: a file in it holds the database's identity.

With another database, and an empty one is another, the files of all images would seem to be nobody's.
"""

from __future__ import annotations

import os
from pathlib import Path

NAME = "database-id"


class BelongingError(Exception):
    """The directory belongs to another database, in one sentence."""


def check(directory: Path, identity: str | None) -> None:
    """
    See that a directory belongs to a database, or to none yet. Blocks.

    @param identity: the database's; C{None}: no server has begun with it yet.
    @raise BelongingError: it belongs to another one, or that can't be read.
    """
    path = directory / NAME
    try:
        found = path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BelongingError(f"{path}: {error.strerror}") from None
    if found != identity:
        raise BelongingError(
            f"directory {directory} belongs to another database: give that one with --database, or use another directory; "
            f"or remove {path} to use the directory with this database"
        )


def mark(directory: Path, identity: str) -> None:
    """
    As L{check}, and have the directory belong to the database, if it belongs to none yet; made if it isn't there.

    @raise BelongingError: as L{check}, or it can't be written.
    """
    check(directory, identity)
    path, new = directory / NAME, directory / f"{NAME}.new"
    if path.exists():
        return
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(identity + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise BelongingError(f"{path}: {error.strerror}") from None
