"""How much may still be written to the disk that holds the images: a reserve stays free for other uses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from fluidvm.model.faults import QuotaExceeded

MIB = 2**20


class DiskRoom:
    """
    The space on the disk of a directory. Its methods block, and can be called in any number of threads at once.

    @param directory: the directory for the images.
    @param reserve: bytes to keep free.
    """

    def __init__(self, directory: Path, reserve: int) -> None:
        self._directory = directory
        self._reserve = reserve
        self._lock = Lock()
        self._under_way = 0

    def free(self) -> int:
        """Return the number of free bytes on the disk."""
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def check(self, length: int) -> None:
        """
        Check that a number of bytes fits now.

        @raise QuotaExceeded: it does not fit.
        """
        with self._lock:
            self._check(length)

    def _check(self, length: int) -> None:
        if length > 0 and self.free() - self._under_way - length < self._reserve:
            raise self._full(length)

    @contextmanager
    def taking(self, length: int) -> Iterator[None]:
        """
        Reserve space for the bytes that the block writes.

        @raise QuotaExceeded: they do not fit; the block does not run, or the disk became full while it ran.
        """
        with self._lock:
            self._check(length)
            self._under_way += length
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(length) from None
            raise
        finally:
            with self._lock:
                self._under_way -= length

    def _full(self, length: int) -> QuotaExceeded:
        return QuotaExceeded(
            f"The server's disk for images has no room for {-(-length // MIB)} MiB more, because --disk-reserve keeps "
            f"{self._reserve // MIB} MiB free: delete images, or ask an administrator."
        )
