"""
Uploads: files that users have sent and that images can be made of.

Each is in the database before its first byte is on the disk, and counts in its user's C{disk_space} from then on, until it
is an image or is dropped. One thing at a time is done to it.
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
"""How many uploads a user may have that no image was made of yet."""
UPLOAD_LIFE = 86400.0
"""Seconds that an upload is kept after its last byte."""


class Uploads:
    """
    All uploads.

    @param inventory: where they count, and by which they are stored.
    @param files: where their bytes are.
    @param wall_clock: seconds since the epoch.
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
        Read what is known, and compare it with the files. Blocks: called before the reactor runs, after the inventory's.

        What has a file without a record is set aside; what has a record without a file is forgotten.
        """
        with connection.begin():
            records = {(record.user, record.name): record for record in stored.load(connection)}
            sizes = self.files.find_uploads(records)
            for key, record in records.items():
                if key in sizes:
                    # Perhaps it was being made an image: the task that goes on takes it again.
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
        await self._inventory.commit([], [(stored.save, (record,))])

    def _forget(self, key: Key) -> None:
        self._known.pop(key, None)
        self._inventory.ledger.count(("upload", *key), of_user(key[0]), {})

    async def _drop(self, key: Key) -> None:
        await self._inventory.commit([], [(stored.drop, key)])

    async def forget_old(self, but: Key | None = None) -> None:
        """Drop the uploads that got no byte for L{UPLOAD_LIFE}. C{but}: not this one."""
        since = self._wall_clock() - UPLOAD_LIFE
        old = [
            key
            for key, record in self._known.items()
            if record.touched < since and record.image is None and key not in self._busy and key != but
        ]
        for key in old:
            self._forget(key)
        self._busy.update(old)
        try:
            for key in old:
                await self.files.drop_upload(*key)
                await self._drop(key)
        finally:
            self._busy.difference_update(old)

    async def stop(self) -> None:
        """Wait until what is being dropped is gone."""
        await self._forgetting

    # Writing.

    def begin(self, user: int, name: str, start: int, length: int | None) -> Writing:
        """
        Begin to write an upload: it counts from now on.

        @param start: where the bytes go, from the file's beginning; 0: it is begun anew.
        @param length: how many bytes there will be; C{None}: that isn't known.
        @raise Conflict: it isn't as long as C{start}, somebody is at work on it, or the user has too many.
        @raise TooLarge: no image may be so large.
        @raise QuotaExceeded: the user's plan hasn't the space.
        """
        key = (user, name)
        forgetting = Deferred.fromCoroutine(self.forget_old(key))
        forgetting.addErrback(lambda failure: self._log.failure("Old uploads can't be dropped", failure))
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
        @param after: bytes that are to count.
        @raise TooLarge: no image may be so large.
        @raise QuotaExceeded: the user's plan hasn't the space.
        """
        if after > self.files.most:
            raise TooLarge(f"An image file must not be larger than {self.files.most // MIB} MiB (--max-image).")
        check_total(self._inventory, user, {"disk_space": -(-after // MIB) - -(-before // MIB)})

    async def expect(self, record: Upload) -> None:
        """Have an upload that is being written count so much, durably."""
        self._set(record)
        await self._save(record)

    async def settle(self, record: Upload) -> None:
        """An upload isn't written any more: what is there counts."""
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

    # What an image is made of.

    async def take(self, user: int, name: str, image: int) -> None:
        """
        Have an upload be an image's file from now on. A repetition changes nothing.

        @raise NotFound: there is no such upload.
        @raise Conflict: it is being sent, or another image is being made of it.
        """
        taken = self.check(user, name, image)._replace(image=image)
        self._known[user, name] = taken
        await self._save(taken)
        await self.files.take_upload(user, name, image)

    def check(self, user: int, name: str, image: int) -> Upload:
        """
        Check that an upload can be made an image, and give it.

        @raise NotFound: there is no such upload.
        @raise Conflict: it is being sent, or another image is being made of it.
        """
        record = self._known.get((user, name))
        if record is None:
            raise NotFound(f"You have no upload {name}.")
        if (user, name) in self._busy or record.image not in (None, image):
            raise Conflict(f"Upload {name} is in progress, or an image is being created from it: wait until that ends.")
        return record

    def uncount(self, user: int, name: str) -> None:
        """From now on the image counts that is made of an upload, not the upload."""
        record = self._known.get((user, name))
        if record is not None:
            self._set(record, counts=False)

    async def give_back(self, user: int, name: str, image: int) -> None:
        """Undo L{take} and L{uncount}; nothing where this image wasn't being made of it."""
        record = self._known.get((user, name))
        if record is None or record.image != image:
            return
        self._set(record)
        await self.files.give_back(user, name, image)
        self._busy.add((user, name))
        await self.settle(record._replace(image=None))

    async def done(self, user: int, name: str, image: int) -> None:
        """The image is made: there is no upload any more. A repetition does nothing."""
        record = self._known.get((user, name))
        if record is not None and record.image == image:
            self._forget((user, name))
            await self._drop((user, name))


@dataclass
class Writing:
    """
    An upload while bytes come: nobody else is at work on it until L{end}.

    @ivar size: bytes that are there.
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
        Make it durable that bytes are expected: before the first of them is written.

        @raise QuotaExceeded: the disk has no room for them.
        """
        await self._uploads.files.check_room(self._record.size - self._there)
        await self._uploads.expect(self._record)

    async def write(self, data: bytes) -> None:
        """
        Write what comes next; nothing, for an upload that is begun anew, makes it empty.

        @raise TooLarge: no image may be so large.
        @raise QuotaExceeded: the user's plan or the disk hasn't the space.
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
        """Let go of it: what is there stays, and counts. A repetition does nothing."""
        if not self._ended:
            self._ended = True
            await self._uploads.settle(self._record)
