"""How the simulator's host remembers: a journal."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from fluidvm.driver import DriverError

SLACK = 1000
"""How many lines the journal may have beyond what there is to tell."""


class Journal:
    """
    Lines of C{[kind, key, value]}; C{null} means gone. The last line for a key counts.

    Written with one write each, straight into the page cache: a few microseconds, so no thread is worth it.
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
        # What follows the last line's end was torn by a kill in the middle of a write: it was never answered.
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
        Remember a value, or with C{None} that it is gone.

        @raise DriverError: the disk is full, or the like; then nothing was written.
        """
        line = json.dumps([kind, key, value]).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                # The disk is full. Half a line would spoil the next.
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise DriverError(f"The simulator's journal {self._path} can't be written: {error.strerror}.") from error
        self._take(kind, key, value)
        self._lines += 1
        if self._lines > 2 * len(self.state) + SLACK:
            # The line is written: when there is no room for another file, the old one does.
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
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
