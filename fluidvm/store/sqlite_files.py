"""Watches the files of SQLite: after they are deleted or replaced, writes are lost without an error from SQLite."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL

from fluidvm.store.connecting import DatabaseError


class SqliteFiles:
    """
    The files of an SQLite database: the database, its write-ahead log, and the index of the log.

    @param url: the URL of the database. Another kind of database, or one in memory, has no files.
    """

    def __init__(self, url: URL) -> None:
        name = url.database if url.drivername == "sqlite" else None
        self._main = None if name in (None, "", ":memory:") else Path(str(name)).absolute()
        self._known: dict[Path, tuple[int, int] | None] = {}

    def note(self) -> None:
        """Remember the current files. The log exists once something was read or written."""
        if self._main is not None:
            log = [self._main.with_name(self._main.name + suffix) for suffix in ("-wal", "-shm")]
            self._known = {path: _which(path) for path in (self._main, *log)}

    def check(self, log: bool = True) -> None:
        """
        Compare the files with the remembered ones. Blocks.

        @param log: false: check only the database, because its log is created and removed with connections.
        @raise DatabaseError: a file was deleted or replaced.
        """
        for path, known in self._known.items():
            if (log or path == self._main) and _which(path) != known:
                raise DatabaseError(
                    f"{path} was deleted or replaced while the server runs: stop the server, restore the file, and start it"
                )


def _which(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
