"""Image files and uploads on the server's disk. The work is done in a separate thread pool."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from fluidvm.images.disk_room import DiskRoom
from fluidvm.images.fetch import Source
from fluidvm.images.formats import HEAD, disk_size
from fluidvm.images.urls import ImageUrls
from fluidvm.model.faults import Conflict, NotFound

T = TypeVar("T")
MIB = 2**20
PIECE = 4 * MIB
"""Bytes that are read or written at once."""
THREADS = 4
UPLOAD_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


@dataclass(frozen=True)
class Inspected:
    """
    Properties of an image file.

    @ivar size: the minimum size, in MiB, of a disk made from the image.
    @ivar space: the size of the file in MiB.
    @ivar sha256: the checksum of the file, in hexadecimal digits.
    """

    size: int
    space: int
    sha256: str


class ImageFiles:
    """
    @param directory: gets the subdirectories C{images}, C{uploads}, and C{set-aside} for unknown files.
    @param reactor: for threads and connections.
    @param most: the maximum size of a file in bytes.
    @param urls: the URLs that images may be fetched from.
    @param reserve: bytes of the disk to keep free.
    @ivar room: the space that is left on the disk.
    """

    _log = Logger()

    def __init__(self, directory: Path, reactor: Any, most: int, urls: ImageUrls, reserve: int = 0) -> None:
        self.reactor = reactor
        self.urls = urls
        self.most = most
        self.room = DiskRoom(directory, reserve)
        self._directory = directory
        self._images, self._uploads = directory / "images", directory / "uploads"
        self._pool = ThreadPool(0, THREADS, "images")

    def start(self, known: Collection[int]) -> None:
        """
        Create the directories, and set aside files that belong to no image. Blocks: called before the reactor runs.

        @param known: the ids of all images.
        """
        for directory in (self._directory, self._images, self._uploads):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._images.iterdir():
            if not path.stem.isdecimal() or int(path.stem) not in known:
                self._set_aside(path)
        self._pool.start()

    def _set_aside(self, path: Path) -> None:
        """Move an unknown file away. It is never deleted, because the database may be the wrong one."""
        aside = self._directory / "set-aside"
        aside.mkdir(mode=0o700, exist_ok=True)
        place, number = aside / f"{path.parent.name}-{path.name}", 1
        while place.exists():
            place, number = aside / f"{path.parent.name}-{path.name}.{number}", number + 1
        path.rename(place)
        self._log.warn("{path} has no record in the database: it was moved to {place}", path=str(path), place=str(place))

    async def stop(self) -> None:
        """Stop the threads."""
        if not self._pool.threads:
            self._pool.stop()
        else:
            await deferToThreadPool(self.reactor, self.reactor.getThreadPool(), self._pool.stop)

    def _run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        return deferToThreadPool(self.reactor, self._pool, function, *args)

    def source(self, clock: IReactorTime, url: str) -> Source:
        """Return a file to fetch from an image server."""
        return Source(self.reactor, clock, self.urls, url)

    # Images.

    def _file(self, id: int) -> Path:
        return self._images / f"{id}.img"

    def _part(self, id: int) -> Path:
        return self._images / f"{id}.part"

    def check(self, id: int, format: str, size: int) -> Deferred[int]:
        """
        Inspect an image again before a disk is made from it: an earlier release may have accepted it by other rules, or
        someone may have changed the file.

        Fails with L{NotFound}; and with L{Conflict} if the file is not of this format and size, or refers to other files.

        @param size: the disk size in MiB.
        @return: fires with the size of the file in bytes.
        """
        return self._run(self._do_check, id, format, size)

    def _do_check(self, id: int, format: str, size: int) -> int:
        try:
            with self._file(id).open("rb") as file:
                length = os.fstat(file.fileno()).st_size
                found = -(-disk_size(file.read(HEAD), length, format) // MIB)
        except FileNotFoundError:
            raise NotFound(f"Image {id} has no file.") from None
        if found != size:
            raise Conflict(f"Its disk size is {found} MiB now, and was {size} MiB.")
        return length

    def read(self, id: int, offset: int) -> Deferred[bytes]:
        """Read a L{PIECE} of an image; fewer bytes at the end of the file."""
        return self._run(_read, self._file(id), offset, PIECE)

    def begin(self, id: int) -> Deferred[None]:
        """Begin the file of an image. The leftovers of an interrupted run are removed."""
        return self._run(_write, self._part(id), None, b"")

    def append(self, id: int, offset: int, data: bytes) -> Deferred[None]:
        """Append a piece to an image that was begun. Fails with L{QuotaExceeded} if the disk has no space for it."""
        return self._run(self._do_write, self._part(id), offset, data)

    def check_room(self, length: int) -> Deferred[None]:
        """Check that the disk has space for a number of bytes. Fails with L{QuotaExceeded}."""
        return self._run(self.room.check, length)

    def _do_write(self, path: Path, offset: int | None, data: bytes) -> None:
        with self.room.taking(len(data)):
            _write(path, offset, data)

    def finish(self, id: int, format: str) -> Deferred[Inspected]:
        """
        Inspect the written file. It becomes an image when L{keep} is called.

        Fails with L{Conflict} if the file is not of this format, or refers to other files.
        """
        return self._run(_inspect, self._part(id), format)

    def keep(self, id: int) -> Deferred[None]:
        """Make the written file the image."""
        return self._run(self._do_keep, id)

    def _do_keep(self, id: int) -> None:
        if self._part(id).exists():  # else an interrupted run has already done this
            _sync(self._part(id))
            self._part(id).replace(self._file(id))

    def drop(self, id: int) -> Deferred[None]:
        """Remove the file of an image, and a partly written one. Can be repeated."""
        return self._run(self._do_drop, id)

    def _do_drop(self, id: int) -> None:
        self._file(id).unlink(missing_ok=True)
        self._part(id).unlink(missing_ok=True)

    # Uploads. The caller ensures that nothing else works on the same upload: see L{fluidvm.images.uploads}.

    def _upload(self, user: int, name: str) -> Path:
        if not re.fullmatch(UPLOAD_NAME, name):
            raise NotFound("There is no such upload.")
        return self._uploads / f"{user}-{name}"

    def find_uploads(self, known: Collection[tuple[int, str]]) -> dict[tuple[int, str], int]:
        """
        Find the uploads on the disk, and set aside unknown files. Blocks: called before the reactor runs.

        @param known: user and name of the known uploads.
        @return: the size of each in bytes, by user and name.
        """
        found = {}
        for path in self._uploads.iterdir():
            user, _, name = path.name.partition("-")
            key = (int(user), name) if user.isdecimal() else (0, "")
            if key in known:
                found[key] = path.stat().st_size
            else:
                self._set_aside(path)
        return found

    def uploaded(self, user: int, name: str) -> Deferred[int | None]:
        """Return the size of an upload in bytes; C{None} if it does not exist."""
        return self._run(self._do_uploaded, user, name)

    def _do_uploaded(self, user: int, name: str) -> int | None:
        path = self._upload(user, name)
        return path.stat().st_size if path.exists() else None

    def write_upload(self, user: int, name: str, offset: int | None, data: bytes) -> Deferred[None]:
        """
        Write a piece of an upload. Fails with L{QuotaExceeded} if the disk has no space for it.

        @param offset: in bytes; C{None}: start the upload over.
        """
        return self._run(lambda: self._do_write(self._upload(user, name), offset, data))

    def drop_upload(self, user: int, name: str) -> Deferred[None]:
        """Remove an upload. Can be repeated."""
        return self._run(lambda: self._upload(user, name).unlink(missing_ok=True))

    def take_upload(self, user: int, name: str, id: int) -> Deferred[None]:
        """Move an upload to the file of an image. Can be repeated. Fails with L{NotFound}."""
        return self._run(self._do_take, user, name, id)

    def _do_take(self, user: int, name: str, id: int) -> None:
        if self._upload(user, name).exists():
            self._upload(user, name).replace(self._part(id))
        elif not self._part(id).exists():
            raise NotFound(f"You have no upload {name}.")

    def look_at_upload(self, user: int, name: str, format: str) -> Deferred[Inspected]:
        """
        Inspect an upload as an image. The checksum is left empty, because only the head of the file is read.

        Fails with L{Conflict} if it is not of this format, and with L{NotFound} if it does not exist.
        """
        return self._run(self._do_look, user, name, format)

    def _do_look(self, user: int, name: str, format: str) -> Inspected:
        try:
            return _look(self._upload(user, name), format)
        except FileNotFoundError:
            raise NotFound(f"You have no upload {name}.") from None

    def give_back(self, user: int, name: str, id: int) -> Deferred[None]:
        """Undo L{take_upload}. Can be repeated."""
        return self._run(self._do_give_back, user, name, id)

    def _do_give_back(self, user: int, name: str, id: int) -> None:
        if self._part(id).exists():
            self._part(id).replace(self._upload(user, name))


def _read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _write(path: Path, offset: int | None, data: bytes) -> None:
    if offset is None:
        # Create a new file, so that hard links to the old one are not changed.
        path.unlink(missing_ok=True)
    with path.open("r+b" if path.exists() else "xb") as file:
        file.seek(offset or 0)
        file.write(data)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _look(path: Path, format: str) -> Inspected:
    with path.open("rb") as file:
        length = path.stat().st_size
        size = disk_size(file.read(HEAD), length, format)
    return Inspected(-(-size // MIB), -(-length // MIB), "")


def _inspect(path: Path, format: str) -> Inspected:
    found, digest = _look(path, format), hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(PIECE):
            digest.update(data)
    return replace(found, sha256=digest.hexdigest())
