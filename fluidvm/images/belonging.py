"""
Which database an image directory belongs to: a file in it holds the identity of the database.

With another database, such as an empty one, the server would take all image files for orphans.
"""

from __future__ import annotations

import os
from pathlib import Path

NAME = "database-id"


class BelongingError(Exception):
    """The directory belongs to another database. The message is one sentence."""


def check(directory: Path, identity: str | None) -> None:
    """
    Check that a directory belongs to a database, or to none yet. Blocks.

    @param identity: the identity of the database; C{None} if no server has used the database yet.
    @raise BelongingError: the directory belongs to another database, or its file can't be read.
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
    Check a directory like L{check}. If it belongs to no database yet, create it if necessary and assign it to this one.

    @raise BelongingError: as L{check}, or the directory can't be written.
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
