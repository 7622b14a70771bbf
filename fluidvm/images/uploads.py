"""
Uploads: files that users have sent, and that images can be made from.

Each upload is recorded in the database before its first byte is written to the disk. From then on it counts in the
C{disk_space} of its user, until it becomes an image or is removed. Only one operation at a time works on an upload.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from fluidvm.images.files import MIB, ImageFiles
from fluidvm.inventory.inventory import Inventory
from fluidvm.inventory.ledger import of_user
from fluidvm.inventory.quota import check_total
from fluidvm.model.faults import Conflict, NotFound, TooLarge
from fluidvm.model.objects import Image
from fluidvm.store import uploads as stored
from fluidvm.store.uploads import Upload

Key = tuple[int, str]
"""A user's id, and the upload's name."""
MOST_UPLOADS = 10
"""Maximum number of uploads of one user that are not images yet."""
UPLOAD_LIFE = 86400.0
"""Seconds after its last byte until an upload expires."""


class Uploads:
    """
    All uploads.

    @param inventory: counts the uploads, and stores their records.
    @param files: the files on the disk.
    @param wall_clock: gives the seconds since the epoch.
    """

    _log = Logger()

    def __init__(self, inventory: Inventory, files: ImageFiles, wall_clock: Callable[[], float]) -> None:
        self.files = files
        self._inventory = inventory
        self._wall_clock = wall_clock
        self._known: dict[Key, Upload] = {}
        self._busy: set[Key] = set()
        self._forgetting: Deferred[None] = succeed(None)

    def load(self, connection: Connection) -> None:
        """
        Read the records, and compare them with the files. Blocks: called before the reactor runs, after the inventory is
        loaded.

        A file without a record is set aside. A record without a file is deleted.
        """
        with connection.begin():
            records = {(record.user, record.name): record for record in stored.load(connection)}
            sizes = self.files.find_uploads(records)
            for key, record in records.items():
                if key in sizes:
                    # If an image was being created from it, the task that continues takes it again.
                    self._set(record._replace(size=sizes[key]))
                elif record.image is not None and self._being_made(record.image):
                    self._set(record)
                else:
                    stored.drop(connection, *key)

    def _being_made(self, image: int) -> bool:
        found = self._inventory.find(Image, image)
        return found is not None and found.state != "ready"

    def _set(self, record: Upload, counts: bool = True) -> None:
        self._known[record.user, record.name] = record
        space = {"disk_space": -(-record.size // MIB)} if counts and record.size else {}
        self._inventory.ledger.count(("upload", record.user, record.name), of_user(record.user), space)

    async def _save(self, record: Upload) -> None:
        await self._inventory.write(stored.save, record)

    def _forget(self, key: Key) -> None:
        self._known.pop(key, None)
        self._inventory.ledger.count(("upload", *key), of_user(key[0]), {})

    async def _drop(self, key: Key) -> None:
        await self._inventory.write(stored.drop, *key)

    async def forget_old(self, but: Key | None = None) -> None:
        """Remove expired uploads, except C{but}: those that received no byte for L{UPLOAD_LIFE}."""
        since = self._wall_clock() - UPLOAD_LIFE
        old = [
            key
            for key, record in self._known.items()
            if record.touched < since and record.image is None and key not in self._busy and key != but
        ]
        await self._drop_all(old)

    async def drop_user(self, user: int) -> None:
        """Drop the uploads of a user who is being deleted. One that is being written is dropped later."""
        await self._drop_all([key for key in self._known if key[0] == user and key not in self._busy])

    async def _drop_all(self, keys: list[Key]) -> None:
        for key in keys:
            self._forget(key)
        self._busy.update(keys)
        try:
            for key in keys:
                await self.files.drop_upload(*key)
                await self._drop(key)
        finally:
            self._busy.difference_update(keys)

    async def stop(self) -> None:
        """Wait until the uploads that are being removed are gone."""
        await self._forgetting

    # Writing.

    def begin(self, user: int, name: str, start: int, length: int | None) -> Writing:
        """
        Begin to write an upload. It counts from now on.

        @param start: the offset of the first byte in the file; 0: start the upload over.
        @param length: the number of bytes that follow; C{None} if unknown.
        @raise Conflict: the upload is not C{start} bytes long, is in use, or the user has too many uploads.
        @raise TooLarge: the file would be larger than an image may be.
        @raise QuotaExceeded: the plan of the user does not have the space.
        """
        key = (user, name)
        forgetting = Deferred.fromCoroutine(self.forget_old(key))
        forgetting.addErrback(lambda failure: self._log.failure("Old uploads can't be deleted", failure))
        self._forgetting.addCallback(lambda nothing: forgetting)
        former = self._known.get(key)
        if key in self._busy:
            raise Conflict(f"Upload {name} is already in progress: wait until it ends.")
        if former is not None and former.image is not None:
            raise Conflict(f"Image {former.image} is being created from upload {name}: wait until that ends.")
        there = 0 if former is None else former.size
        if start not in (0, there):
            raise Conflict(f"Upload {name} has {there} bytes: continue from there.")
        if former is None and sum(owner == user for owner, _ in self._known) >= MOST_UPLOADS:
            raise Conflict(f"You already have {MOST_UPLOADS} uploads: create images from them, or wait until they expire.")
        total = start + (length or 0)
        self.admit(user, there, total)
        record = Upload(user, name, total, self._wall_clock())
        self._busy.add(key)
        self._set(record)
        return Writing(self, record, start, there)

    def admit(self, user: int, before: int, after: int) -> None:
        """
        Check that an upload may grow.

        @param before: bytes that count already.
        @param after: bytes that will count.
        @raise TooLarge: the file would be larger than an image may be.
        @raise QuotaExceeded: the plan of the user does not have the space.
        """
        if after > self.files.most:
            raise TooLarge(f"An image file must not be larger than {self.files.most // MIB} MiB (--max-image).")
        check_total(self._inventory, user, {"disk_space": -(-after // MIB) - -(-before // MIB)})

    async def expect(self, record: Upload) -> None:
        """Store the size that an upload in progress counts with."""
        self._set(record)
        await self._save(record)

    async def settle(self, record: Upload) -> None:
        """End the writing of an upload: from now on its actual size counts."""
        key = (record.user, record.name)
        try:
            size = await self.files.uploaded(*key)
            if size is None:
                self._forget(key)
                await self._drop(key)
            else:
                await self.expect(record._replace(size=size, touched=self._wall_clock()))
        finally:
            self._busy.discard(key)

    # Creating an image from an upload.

    async def take(self, user: int, name: str, image: int) -> None:
        """
        Turn an upload into the file of an image. Can be repeated.

        @raise NotFound: there is no such upload.
        @raise Conflict: it is in progress, or another image is being created from it.
        """
        taken = self.check(user, name, image)._replace(image=image)
        self._known[user, name] = taken
        await self._save(taken)
        await self.files.take_upload(user, name, image)

    def check(self, user: int, name: str, image: int) -> Upload:
        """
        Check that an image can be created from an upload, and return the upload.

        @raise NotFound: there is no such upload.
        @raise Conflict: it is in progress, or another image is being created from it.
        """
        record = self._known.get((user, name))
        if record is None:
            raise NotFound(f"You have no upload {name}.")
        if (user, name) in self._busy or record.image not in (None, image):
            raise Conflict(f"Upload {name} is in progress, or an image is being created from it: wait until that ends.")
        return record

    def uncount(self, user: int, name: str) -> None:
        """Stop counting an upload: the image that is created from it counts instead."""
        record = self._known.get((user, name))
        if record is not None:
            self._set(record, counts=False)

    async def give_back(self, user: int, name: str, image: int) -> None:
        """Undo L{take} and L{uncount}. Does nothing if this image was not being created from the upload."""
        record = self._known.get((user, name))
        if record is None or record.image != image:
            return
        self._set(record)
        await self.files.give_back(user, name, image)
        self._busy.add((user, name))
        await self.settle(record._replace(image=None))

    async def done(self, user: int, name: str, image: int) -> None:
        """Delete the record of an upload after the image was created. Can be repeated."""
        record = self._known.get((user, name))
        if record is not None and record.image == image:
            self._forget((user, name))
            await self._drop((user, name))


@dataclass
class Writing:
    """
    An upload in progress. Nothing else can use it until L{end}.

    @ivar size: bytes that have been written.
    """

    _uploads: Uploads
    _record: Upload
    size: int
    _there: int
    _anew: bool = False
    _ended: bool = False

    def __post_init__(self) -> None:
        self._anew = self.size == 0

    async def register(self) -> None:
        """
        Store how many bytes are expected, before the first of them is written.

        @raise QuotaExceeded: the disk has no space for them.
        """
        await self._uploads.files.check_room(self._record.size - self._there)
        await self._uploads.expect(self._record)

    async def write(self, data: bytes) -> None:
        """
        Write the next bytes. An upload that is started over with no bytes becomes empty.

        @raise TooLarge: the file would be larger than an image may be.
        @raise QuotaExceeded: the plan of the user or the disk does not have the space.
        """
        total = self.size + len(data)
        if total > self._record.size:
            self._uploads.admit(self._record.user, self._record.size, total)
            self._record = self._record._replace(size=total)
            await self._uploads.expect(self._record)
        user, name = self._record.user, self._record.name
        await self._uploads.files.write_upload(user, name, None if self._anew else self.size, data)
        self._anew = False
        self.size = total

    async def end(self) -> None:
        """End the writing. The bytes written so far are kept, and count. Can be repeated."""
        if not self._ended:
            self._ended = True
            await self._uploads.settle(self._record)
