"""SQLite's files, watched: what is written after they were deleted or replaced is lost, and SQLite doesn't notice."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL

from fluidvm.store.connecting import DatabaseError


class SqliteFiles:
    """
    The files of a SQLite database: itself, its log and the log's index.

    @param url: another kind of database, or one in memory, has none.
    """

    def __init__(self, url: URL) -> None:
        name = url.database if url.drivername == "sqlite" else None
        self._main = None if name in (None, "", ":memory:") else Path(str(name)).absolute()
        self._known: dict[Path, tuple[int, int] | None] = {}

    def note(self) -> None:
        """Take what is there for right from now on; the log is there once something was read or written."""
        if self._main is not None:
            log = [self._main.with_name(self._main.name + suffix) for suffix in ("-wal", "-shm")]
            self._known = {path: _which(path) for path in (self._main, *log)}

    def check(self, log: bool = True) -> None:
        """
        Compare what is there now. Blocks.

        @param log: false: the database alone; its log comes and goes with connections.
        @raise DatabaseError: a file is gone, or another has its place.
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
