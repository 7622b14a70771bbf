"""Who may send and fetch which bytes beside the calls: uploads for images, and disks' contents."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from fluidvm.driver import IImages, NoSuchThing
from fluidvm.engine.claims import Claims
from fluidvm.engine.job import Resources
from fluidvm.faults import Conflict, Forbidden, InvalidParams, NotFound, NotLoggedIn, Unavailable
from fluidvm.image_files import UPLOAD_NAME, ImageFiles
from fluidvm.inventory import missing
from fluidvm.objects import VM, Disk, User

MOST = 16
"""How many transfers may be under way together."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,32}")


class Transfers:
    """
    @param resources: what they work with.
    @param claims: which objects tasks hold.
    """

    def __init__(self, resources: Resources, claims: Claims) -> None:
        self._resources = resources
        self._claims = claims
        self._under_way = 0

    @property
    def files(self) -> ImageFiles:
        """Where uploads go."""
        return self._resources.images

    def held_back(self, address: str) -> Deferred[None]:
        """Wait as long as the answer to a wrong cookie is held back, after many others from an address."""
        return deferLater(self._resources.clock, self._resources.sessions.hold(address), lambda: None)

    def enter(self) -> None:
        """A transfer begins. @raise Unavailable: too many are under way."""
        if self._under_way >= MOST:
            raise Unavailable(f"{MOST} transfers are under way already: try again in a moment.")
        self._under_way += 1

    def leave(self) -> None:
        """A transfer has ended."""
        self._under_way -= 1

    def user(self, cookie: str, address: str) -> User:
        """
        Tell who asks.

        @raise InvalidParams: no cookie looks so.
        @raise NotLoggedIn: nobody who is logged in.
        @raise HeldBack: the one or the other, after many from this address: see L{held_back}.
        @raise Forbidden: somebody who only looks on.
        """
        if not cookie:
            raise NotLoggedIn("You are not logged in: authenticate first, and give the cookie.")
        session = self._resources.sessions.find(int(cookie) if _NUMBER.fullmatch(cookie) else cookie, address)
        user = self._resources.inventory.find(User, session.user)
        if user is None or not user.enabled:
            raise NotLoggedIn("You are not logged in: authenticate again.")
        if user.role == "auditor":
            raise Forbidden("Bytes are for admins and users, not for auditors.")
        self._resources.sessions.touch(session)
        return user

    def upload(self, cookie: str, address: str, name: str) -> tuple[int, str]:
        """
        Tell whose upload it is.

        @return: the user's id, and the upload's name.
        @raise InvalidParams: it has no name, or none that it may have.
        """
        user = self.user(cookie, address)
        if not re.fullmatch(UPLOAD_NAME, name):
            raise InvalidParams("upload: wants letters, digits, dots, dashes and underscores, 63 at most.")
        return user.id, name

    async def disk(self, cookie: str, address: str, id: int) -> Contents:
        """
        Find a disk whose bytes may be read now.

        @raise Conflict: it is in use.
        """
        user = self.user(cookie, address)
        inventory = self._resources.inventory
        if inventory.visible("disk", id, user) is None:
            raise missing("disk", id)
        disk = inventory.get(Disk, id)
        if disk.state != "ready":
            raise Conflict(f"Disk {disk.name} is {disk.state}.")
        if disk.vm is not None and inventory.get(VM, disk.vm).powered:
            raise Conflict(f"Disk {disk.name} is in use by VM {disk.vm}, which runs: stop it first.")
        if self._claims.held(("disk", id)) or (disk.vm is not None and self._claims.held(("vm", disk.vm))):
            raise Conflict(f"A task is at work on disk {disk.name}.")
        connection = await self._resources.nodes.connection(disk.compute_node, IImages)
        try:
            length = await connection.measure_volume(disk.pool, disk.volume, disk.format)
        except NoSuchThing:
            raise NotFound(f"Disk {disk.name} is gone from its compute node.") from None
        return Contents(disk, length, connection)


class Contents:
    """
    A disk's bytes.

    @ivar name: a file's name for them.
    @ivar length: how many they are.
    """

    def __init__(self, disk: Disk, length: int, connection: Any) -> None:
        self.name = f"{disk.name}.{disk.format}"
        self.length = length
        self._disk = disk
        self._connection = connection

    def read(self, offset: int, length: int) -> Deferred[bytes]:
        """Read some of them."""
        disk = self._disk
        found: Deferred[bytes] = self._connection.read_volume(disk.pool, disk.volume, disk.format, offset, length)
        return found
