"""Images' files, and uploads that images can be made of: on the server's own disk, in threads of their own pool."""

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
"""Bytes that are moved at once."""
THREADS = 4
UPLOAD_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


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
    @param directory: made below it: C{images}, C{uploads}, and C{set-aside} for files that nothing is known of.
    @param reactor: for threads and connections.
    @param most: bytes that one file may have.
    @param urls: from where images may be fetched.
    @param reserve: bytes of the disk that stay free.
    @ivar room: what may still be written there.
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
        Make the directories, and set aside what no image has. Blocks: called before the reactor runs.

        @param known: the ids of all images.
        """
        for directory in (self._directory, self._images, self._uploads):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._images.iterdir():
            if not path.stem.isdecimal() or int(path.stem) not in known:
                self._set_aside(path)
        self._pool.start()

    def _set_aside(self, path: Path) -> None:
        """Move a file away that nothing is known of: the database may be another one, so the file is never deleted."""
        aside = self._directory / "set-aside"
        aside.mkdir(mode=0o700, exist_ok=True)
        place, number = aside / f"{path.parent.name}-{path.name}", 1
        while place.exists():
            place, number = aside / f"{path.parent.name}-{path.name}.{number}", number + 1
        path.rename(place)
        self._log.warn("{path} has no record in the database: it was moved to {place}", path=str(path), place=str(place))

    async def stop(self) -> None:
        """Let the threads end."""
        if not self._pool.threads:
            self._pool.stop()
        else:
            await deferToThreadPool(self.reactor, self.reactor.getThreadPool(), self._pool.stop)

    def _run(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        return deferToThreadPool(self.reactor, self._pool, function, *args)

    def source(self, clock: IReactorTime, url: str) -> Source:
        """Give a file to fetch from a server of images."""
        return Source(self.reactor, clock, self.urls, url)

    # Images.

    def _file(self, id: int) -> Path:
        return self._images / f"{id}.img"

    def _part(self, id: int) -> Path:
        return self._images / f"{id}.part"

    def check(self, id: int, format: str, size: int) -> Deferred[int]:
        """
        Look at an image's head once more, as whoever makes a disk of it does: an earlier release may have taken it in by
        other rules, or another hand may have changed its file.

        Fails with L{NotFound}; and with L{Conflict} where it is none of this format and size, or one that leads to other
        files.

        @param size: MiB of its disks.
        @return: fires with its bytes.
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
        """Read a L{PIECE} of an image; fewer bytes at its end."""
        return self._run(_read, self._file(id), offset, PIECE)

    def begin(self, id: int) -> Deferred[None]:
        """Begin an image's file; what an interrupted run has left is dropped."""
        return self._run(_write, self._part(id), None, b"")

    def append(self, id: int, offset: int, data: bytes) -> Deferred[None]:
        """Write a piece of an image that was begun. Fails with L{QuotaExceeded} if the disk has no room for it."""
        return self._run(self._do_write, self._part(id), offset, data)

    def check_room(self, length: int) -> Deferred[None]:
        """Check that the disk has room for bytes. Fails with L{QuotaExceeded}."""
        return self._run(self.room.check, length)

    def _do_write(self, path: Path, offset: int | None, data: bytes) -> None:
        with self.room.taking(len(data)):
            _write(path, offset, data)

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

    # Uploads. Their owner sees to it that nobody else is at work on the same one: see L{fluidvm.images.uploads}.

    def _upload(self, user: int, name: str) -> Path:
        if not re.fullmatch(UPLOAD_NAME, name):
            raise NotFound("There is no such upload.")
        return self._uploads / f"{user}-{name}"

    def find_uploads(self, known: Collection[tuple[int, str]]) -> dict[tuple[int, str], int]:
        """
        Look at what uploads are there, and set aside what isn't known. Blocks: called before the reactor runs.

        @param known: user and name of those that may be there.
        @return: bytes of each, by user and name.
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
        """Tell how many bytes of an upload are there; C{None}: there is none."""
        return self._run(self._do_uploaded, user, name)

    def _do_uploaded(self, user: int, name: str) -> int | None:
        path = self._upload(user, name)
        return path.stat().st_size if path.exists() else None

    def write_upload(self, user: int, name: str, offset: int | None, data: bytes) -> Deferred[None]:
        """
        Write a piece of an upload. Fails with L{QuotaExceeded} if the disk has no room for it.

        @param offset: in bytes; C{None}: begin it anew.
        """
        return self._run(lambda: self._do_write(self._upload(user, name), offset, data))

    def drop_upload(self, user: int, name: str) -> Deferred[None]:
        """Remove an upload. A repetition does nothing."""
        return self._run(lambda: self._upload(user, name).unlink(missing_ok=True))

    def take_upload(self, user: int, name: str, id: int) -> Deferred[None]:
        """Have an upload be an image's file from now on; a repetition changes nothing. Fails with L{NotFound}."""
        return self._run(self._do_take, user, name, id)

    def _do_take(self, user: int, name: str, id: int) -> None:
        if self._upload(user, name).exists():
            self._upload(user, name).replace(self._part(id))
        elif not self._part(id).exists():
            raise NotFound(f"There is no upload {name} of yours.")

    def look_at_upload(self, user: int, name: str, format: str) -> Deferred[Inspected]:
        """
        Tell what image an upload would be; its checksum is empty, for only its head is read.

        Fails with L{Conflict} if it is none of this format, and with L{NotFound} if there is none.
        """
        return self._run(self._do_look, user, name, format)

    def _do_look(self, user: int, name: str, format: str) -> Inspected:
        try:
            return _look(self._upload(user, name), format)
        except FileNotFoundError:
            raise NotFound(f"There is no upload {name} of yours.") from None

    def give_back(self, user: int, name: str, id: int) -> Deferred[None]:
        """Undo L{take_upload}. A repetition changes nothing."""
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
        # A file of its own: what was linked from here stays as it is.
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
