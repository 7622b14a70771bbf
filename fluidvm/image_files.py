"""Images' files, and uploads that images can be made of: on the server's own disk, in threads of their own pool."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from fluidvm.faults import Conflict, NotFound
from fluidvm.image_formats import HEAD, disk_size

T = TypeVar("T")
MIB = 2**20
PIECE = 4 * MIB
"""Bytes that are moved at once."""
THREADS = 4
UPLOAD_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
MOST_UPLOADS = 10
"""How many uploads a user may have that no image was made of yet."""
UPLOAD_LIFE = 86400.0
"""Seconds that an upload is kept after its last byte."""


@dataclass(frozen=True)
class Inspected:
    """
    What an image's file is.

    @ivar size: MiB that a disk made of it has at least.
    @ivar space: MiB that the file takes.
    @ivar sha256: of its bytes, in hexadecimal digits.
    """

    size: int
    space: int
    sha256: str


class ImageFiles:
    """
    @param directory: the state directory; made below it: C{images} and C{uploads}.
    @param reactor: for threads and connections.
    @param wall_clock: seconds since the epoch.
    @param most: bytes that one file may have.
    @ivar urls: what the URLs begin with that images may be fetched from.
    @ivar moves: whether bytes are moved; not where tasks are only planned.
    """

    moves = True

    def __init__(
        self, directory: Path, reactor: Any, wall_clock: Callable[[], float], most: int, urls: tuple[str, ...] = ()
    ) -> None:
        self.reactor = reactor
        self.urls = urls
        self.most = most
        self._images, self._uploads = directory / "images", directory / "uploads"
        self._wall_clock = wall_clock
        self._pool = ThreadPool(0, THREADS, "images")
        self._uploading = Lock()

    def start(self, known: Collection[int]) -> None:
        """
        Make the directories, and drop what no image has. Blocks: called before the reactor runs.

        @param known: the ids of all images.
        """
        for directory in (self._images, self._uploads):
            directory.mkdir(mode=0o700, exist_ok=True)
        for path in self._images.iterdir():
            if not path.stem.isdigit() or int(path.stem) not in known:
                path.unlink()
        self._pool.start()

    async def stop(self) -> None:
        """Let the threads end."""
        if not self._pool.threads:
            self._pool.stop()
        else:
            await deferToThreadPool(self.reactor, self.reactor.getThreadPool(), self._pool.stop)

    def _run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        return deferToThreadPool(self.reactor, self._pool, function, *args)

    # Images.

    def _file(self, id: int) -> Path:
        return self._images / f"{id}.img"

    def _part(self, id: int) -> Path:
        return self._images / f"{id}.part"

    def length(self, id: int) -> Deferred[int]:
        """Tell how many bytes an image has. Fails with L{NotFound}."""
        return self._run(self._do_length, id)

    def _do_length(self, id: int) -> int:
        try:
            return self._file(id).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"Image {id} has no file.") from None

    def read(self, id: int, offset: int) -> Deferred[bytes]:
        """Read a L{PIECE} of an image; fewer bytes at its end."""
        return self._run(_read, self._file(id), offset, PIECE)

    def begin(self, id: int) -> Deferred[None]:
        """Begin an image's file; what an interrupted run has left is dropped."""
        return self._run(_write, self._part(id), None, b"")

    def append(self, id: int, offset: int, data: bytes) -> Deferred[None]:
        """Write a piece of an image that was begun."""
        return self._run(_write, self._part(id), offset, data)

    def finish(self, id: int, format: str) -> Deferred[Inspected]:
        """
        Look at what was written: an image it is with L{keep}.

        Fails with L{Conflict} if it is none of this format, or one that leads to other files.
        """
        return self._run(_inspect, self._part(id), format)

    def keep(self, id: int) -> Deferred[None]:
        """What was written is the image."""
        return self._run(self._do_keep, id)

    def _do_keep(self, id: int) -> None:
        if self._part(id).exists():  # else an interrupted run has come this far
            _sync(self._part(id))
            self._part(id).replace(self._file(id))

    def drop(self, id: int) -> Deferred[None]:
        """Remove an image's file, and what was written of one. A repetition does nothing."""
        return self._run(self._do_drop, id)

    def _do_drop(self, id: int) -> None:
        self._file(id).unlink(missing_ok=True)
        self._part(id).unlink(missing_ok=True)

    # Uploads.

    def _upload(self, user: int, name: str) -> Path:
        if not re.fullmatch(UPLOAD_NAME, name):
            raise NotFound("There is no such upload.")
        return self._uploads / f"{user}-{name}"

    def uploaded(self, user: int, name: str) -> Deferred[int]:
        """Tell how many bytes of an upload are there; 0 where there is none."""
        return self._run(lambda: _size(self._upload(user, name)))

    def upload(self, user: int, name: str, offset: int | None, data: bytes) -> Deferred[None]:
        """
        Write a piece of an upload.

        @param offset: in bytes; C{None}: begin it anew.
        """
        return self._run(self._do_upload, user, name, offset, data)

    def _do_upload(self, user: int, name: str, offset: int | None, data: bytes) -> None:
        path = self._upload(user, name)
        with self._uploading:
            if not path.exists():
                self._do_forget_old()
                if sum(other.name.startswith(f"{user}-") for other in self._uploads.iterdir()) >= MOST_UPLOADS:
                    raise Conflict(f"{MOST_UPLOADS} uploads wait already for images to be made of them.")
            if offset is not None and offset != _size(path):
                raise Conflict(f"Upload {name} has {_size(path)} bytes: go on there.")
            _write(path, offset, data)
            os.utime(path, (self._wall_clock(), self._wall_clock()))

    def _do_forget_old(self) -> None:
        for path in self._uploads.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < self._wall_clock() - UPLOAD_LIFE:
                    path.unlink()

    def take_upload(self, user: int, name: str, id: int) -> Deferred[None]:
        """Have an upload be an image's file from now on; a repetition changes nothing. Fails with L{NotFound}."""
        return self._run(self._do_take, user, name, id)

    def _do_take(self, user: int, name: str, id: int) -> None:
        # Moved, while nobody writes: what is being looked at, and is kept then, can't be written to any more.
        with self._uploading:
            if self._upload(user, name).exists():
                self._upload(user, name).replace(self._part(id))
            elif not self._part(id).exists():
                raise NotFound(f"There is no upload {name} of yours.")

    def give_back(self, user: int, name: str, id: int) -> Deferred[None]:
        """Undo L{take_upload}, unless another upload has the name by now."""
        return self._run(self._do_give_back, user, name, id)

    def _do_give_back(self, user: int, name: str, id: int) -> None:
        with self._uploading:
            if self._part(id).exists() and not self._upload(user, name).exists():
                self._part(id).replace(self._upload(user, name))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _write(path: Path, offset: int | None, data: bytes) -> None:
    if offset is None:
        # A file of its own: what was linked from here stays as it is.
        path.unlink(missing_ok=True)
    with path.open("r+b" if path.exists() else "xb") as file:
        file.seek(offset or 0)
        file.write(data)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _inspect(path: Path, format: str) -> Inspected:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = disk_size(file.read(HEAD), path.stat().st_size, format)
        file.seek(0)
        while data := file.read(PIECE):
            digest.update(data)
    return Inspected(-(-size // MIB), -(-path.stat().st_size // MIB), digest.hexdigest())
