"""Replacements of images and uploads for rehearsals, which read and write no files."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, succeed

from fluidvm.images.files import MIB, ImageFiles, Inspected
from fluidvm.images.uploads import Uploads
from fluidvm.inventory.ledger import Account, Ledger, of_user
from fluidvm.model.faults import ApiFault, NotFound

Looked = Mapping[tuple[int, str, str], "Inspected | ApiFault"]
"""The result of inspecting uploads, by user, name and format; a fault if an upload is not an image of that format."""


class PlannedImages:
    """
    Replaces L{ImageFiles}.

    @param real: the server's image files.
    @param looked: the inspected uploads.
    """

    def __init__(self, real: ImageFiles, looked: Looked) -> None:
        self.most = real.most
        self._looked = looked
        self._lengths: dict[int, int] = {}
        self.taken: dict[int, tuple[int, str]] = {}
        self._expected = 0

    def source(self, clock: object, url: str) -> _Source:
        return _Source()

    def check(self, id: int, format: str, size: int) -> Deferred[int]:
        """Report that no bytes of the image have to be written."""
        return succeed(0)

    def check_room(self, length: int) -> Deferred[None]:
        """Record the number of bytes that will be written."""
        self._expected = length
        return succeed(None)

    async def finish(self, id: int, format: str) -> Inspected:
        """As L{ImageFiles.finish}. A file that would still be fetched or copied counts as an image of unknown size."""
        upload = self.taken.get(id)
        if upload is None:
            space, self._expected = -(-self._expected // MIB), 0
            return Inspected(1, space, "")
        found = self._looked[(*upload, format)]
        if isinstance(found, ApiFault):
            raise found
        return found

    def begin(self, id: int) -> Deferred[None]:
        return succeed(None)

    keep = drop = begin


class _Source:
    """A file on an image server. The call has checked its URL; a rehearsal doesn't fetch it."""

    def open(self) -> Deferred[int | None]:
        return succeed(None)

    def read(self) -> Deferred[bytes]:
        return succeed(b"")

    def close(self) -> None:
        pass


class PlannedUploads:
    """
    Replaces L{Uploads}.

    @param ledger: the ledger that counts the uploads; L{restore} undoes the changes.
    """

    def __init__(self, real: Uploads, ledger: Ledger, images: PlannedImages) -> None:
        self._real = real
        self._ledger = ledger
        self._taken = images.taken
        self._uncounted: dict[tuple[int, str], tuple[Account, Mapping[str, int]]] = {}
        self._gone: set[tuple[int, str]] = set()

    async def take(self, user: int, name: str, image: int) -> None:
        """As L{Uploads.take}."""
        if (user, name) in self._gone:
            raise NotFound(f"You have no upload {name}.")
        self._real.check(user, name, image)
        self._taken[image] = (user, name)

    async def drop_user(self, user: int) -> None:
        """A user who is deleted plans no more."""

    def uncount(self, user: int, name: str) -> None:
        """As L{Uploads.uncount}."""
        former = self._ledger.count(("upload", user, name), of_user(user), {})
        if former is not None:
            self._uncounted[user, name] = former

    async def give_back(self, user: int, name: str, image: int) -> None:
        """As L{Uploads.give_back}."""
        if self._taken.pop(image, None) is not None:
            self._count(user, name)

    async def done(self, user: int, name: str, image: int) -> None:
        """As L{Uploads.done}."""
        self._gone.add((user, name))

    def _count(self, user: int, name: str) -> None:
        former = self._uncounted.pop((user, name), None)
        if former is not None:
            self._ledger.count(("upload", user, name), *former)

    def restore(self) -> None:
        """Count all uploads as before the rehearsal."""
        for user, name in list(self._uncounted):
            self._count(user, name)


async def look_at_uploads(uploads: Uploads, wanted: set[tuple[int, str, str]]) -> Looked:
    """Inspect the uploads from which images will be made. C{wanted}: user, name and format of each."""
    looked: dict[tuple[int, str, str], Inspected | ApiFault] = {}
    for user, name, format in wanted:
        try:
            looked[user, name, format] = await uploads.files.look_at_upload(user, name, format)
        except ApiFault as fault:
            looked[user, name, format] = fault
    return looked
