"""How much may still be written to the disk that images lie on: a reserve stays free, for the server and others."""

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
    The room on a directory's disk. Its methods block: they are called in threads, any number at once.

    @param directory: where it is written.
    @param reserve: bytes that stay free.
    """

    def __init__(self, directory: Path, reserve: int) -> None:
        self._directory = directory
        self._reserve = reserve
        self._lock = Lock()
        self._under_way = 0

    def free(self) -> int:
        """Tell how many bytes of the disk anybody may still write."""
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def check(self, length: int) -> None:
        """
        Check that bytes fit as it is now.

        @raise QuotaExceeded: they don't.
        """
        with self._lock:
            self._check(length)

    def _check(self, length: int) -> None:
        if length > 0 and self.free() - self._under_way - length < self._reserve:
            raise self._full(length)

    @contextmanager
    def taking(self, length: int) -> Iterator[None]:
        """
        Within the block so many bytes are written.

        @raise QuotaExceeded: they don't fit; nothing is to be written then.
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
