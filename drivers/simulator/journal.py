"""The journal, in which the simulator's host stores its state."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from fluidvm.driver import DriverError

SLACK = 1000
"""Maximum number of outdated lines in the journal."""


class Journal:
    """
    Lines of C{[kind, key, value]}; the value C{null} means removed. The last line for a key counts.

    Each line is written with one system call, into the page cache. This takes a few microseconds, so it needs no thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state: dict[tuple[str, str], Any] = {}
        self._file = -1
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            self._read()
        self._compact()

    def _read(self) -> None:
        # Data after the last newline was cut off when the server was killed during a write: that verb was never answered.
        lines = self._path.read_bytes().split(b"\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                kind, key, value = json.loads(line)
            except (TypeError, ValueError):
                raise DriverError(f"The simulator's journal {self._path} is damaged in line {number}.") from None
            self._take(kind, key, value)

    def _take(self, kind: str, key: str, value: Any) -> None:
        if value is None:
            self.state.pop((kind, key), None)
        else:
            self.state[kind, key] = value

    def write(self, kind: str, key: str, value: Any) -> None:
        """
        Store a value, or with C{None} that it was removed.

        @raise DriverError: for example, the disk is full; then nothing was written.
        """
        line = json.dumps([kind, key, value]).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                # The disk is full. An incomplete line would corrupt the next one.
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise DriverError(f"The simulator's journal {self._path} can't be written: {error.strerror}.") from error
        self._take(kind, key, value)
        self._lines += 1
        if self._lines > 2 * len(self.state) + SLACK:
            # The line has been written: if there is no space for a new file, the old one remains in use.
            with contextlib.suppress(OSError):
                self._compact()

    def _compact(self) -> None:
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            with open(file, "wb", closefd=False) as sink:
                sink.writelines(json.dumps([*at, value]).encode() + b"\n" for at, value in self.state.items())
            fresh.replace(self._path)
        except OSError:
            os.close(file)
            raise
        self.close()
        self._file = file
        self._lines = len(self.state)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
