"""Transfers: uploads of images and downloads of disks, and who is allowed to make them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater

from fluidvm.access.disk_tags import DiskTags
from fluidvm.auth.audit import AuditLog
from fluidvm.auth.permissions import check_object, check_transfer, session_user
from fluidvm.auth.sessions import Session
from fluidvm.driver import IImages, NoSuchThing
from fluidvm.engine.claims import Claims, Watch
from fluidvm.engine.job import Resources
from fluidvm.images.files import UPLOAD_NAME
from fluidvm.images.uploads import Writing
from fluidvm.model.faults import ApiFault, Conflict, InvalidParams, NotFound, NotLoggedIn, Unavailable
from fluidvm.model.kinds import NAME_RULE
from fluidvm.model.objects import VM, Disk, User
from fluidvm.store.objects import ChangeRow

MOST = 16
"""Maximum number of simultaneous transfers."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,32}")
MOST_OF_USER = 4
"""Maximum number of simultaneous transfers of one user."""
LOOK = 1.0
"""Seconds between two checks of whether transfers are still allowed."""
CONCERNED = ("user", "vm", "disk")
"""Types of objects whose changes can end a transfer."""


class Transfers:
    """
    All transfers. Their number is limited; each counts until it is closed.

    @param resources: what transfers need.
    @param claims: the objects that tasks hold.
    @param audit: gets a line for each transfer.
    """

    def __init__(self, resources: Resources, claims: Claims, audit: AuditLog) -> None:
        self.resources = resources
        self._claims = claims
        self._tags = DiskTags(resources.inventory, claims)
        self._audit = audit
        self._under_way: set[Transfer] = set()
        self._sending: dict[tuple[int, str], Sending] = {}
        self._looking: IDelayedCall | None = None
        resources.inventory.listen(self._changed)

    def __len__(self) -> int:
        return len(self._under_way)

    def held_back(self, address: str) -> Deferred[None]:
        """Wait as long as the answer to an invalid cookie must be delayed, after too many from an address."""
        return deferLater(self.resources.clock, self.resources.sessions.hold(address), lambda: None)

    # The user of a transfer.

    def _session(self, cookie: str, address: str) -> Session:
        """
        Return the session of a cookie.

        @raise InvalidParams: it has the wrong type or range.
        @raise NotLoggedIn: the cookie is missing, unknown or expired.
        @raise HeldBack: it is invalid, after too many invalid ones from this address: see L{held_back}.
        """
        if not cookie:
            raise NotLoggedIn("You are not logged in: authenticate first, then send the cookie.")
        session = self.resources.sessions.find(int(cookie) if _NUMBER.fullmatch(cookie) else cookie, address)
        self.rightful(session)
        self.resources.sessions.touch(session)
        return session

    def rightful(self, session: Session) -> User:
        """
        Return a session's user, if the user is currently allowed to make transfers.

        @raise NotLoggedIn: the session has ended, or the user was deleted or disabled.
        @raise Forbidden: the user's role doesn't allow transfers.
        """
        user = session_user(self.resources.inventory, self.resources.sessions, session)
        check_transfer(user)
        return user

    async def uploaded(self, cookie: str, address: str, name: str) -> int:
        """
        Return the number of bytes of an upload that the server has; 0 if there is no such upload.

        @raise ApiFault: the caller is not allowed to know; the fault says why.
        """
        session = self._session(cookie, address)
        sending = self._sending.get((session.user, _checked(name)))
        if sending is not None and sending.closed:  # its connection has just broken: wait until all is written
            await sending.after()
        return await self.resources.images.uploaded(session.user, name) or 0

    # Beginning and end.

    def send(self, cookie: str, address: str, name: str, start: int, length: int | None) -> Sending:
        """
        Begin an upload.

        @param name: its name.
        @param start: the offset in the file at which its bytes are written.
        @param length: the number of bytes; C{None} if that isn't known.
        @raise ApiFault: it is not possible or not allowed; the fault says why.
        """
        session = self._session(cookie, address)
        sending = Sending(self, session, address, _checked(name))
        self._enter(sending)
        try:
            sending.writing = self.resources.uploads.begin(session.user, name, start, length)
        except ApiFault as fault:
            sending.close(fault)
            raise
        self._sending[session.user, name] = sending
        return sending

    def fetch(self, cookie: str, address: str, id: int) -> Fetching:
        """
        Begin a download of a disk.

        It ends when a task claims the disk or its VM, because the content could then be partly old and partly new.

        @raise Conflict: the disk is in use.
        @raise ApiFault: it is not possible or not allowed; the fault says why.
        """
        session = self._session(cookie, address)
        fetching = Fetching(self, session, address, id)
        disk = fetching.check()
        keys = [("disk", id), *([] if disk.vm is None else [("vm", disk.vm)])]
        wanted = Conflict(f"A task is using disk {disk.name}: try again when it has ended.")
        if any(self._claims.held(key) for key in keys):
            raise wanted
        self._enter(fetching)
        fetching.tag = self._tags.tag(disk)
        fetching.watch = self._claims.watch(keys, lambda: fetching.stop(wanted))
        return fetching

    def _enter(self, transfer: Transfer) -> None:
        if len(self._under_way) >= MOST:
            raise Unavailable(f"{MOST} transfers are already under way: try again in a moment.")
        if sum(other.session.user == transfer.session.user for other in self._under_way) >= MOST_OF_USER:
            raise Unavailable(f"You already have {MOST_OF_USER} transfers under way: wait until one has ended.")
        self._under_way.add(transfer)
        self._schedule()

    def leave(self, transfer: Transfer, fault: ApiFault | None) -> None:
        """Record that a transfer has ended. @param fault: why it isn't complete; C{None} if it is."""
        self._under_way.discard(transfer)
        if not self._under_way and self._looking is not None:
            self._looking.cancel()
            self._looking = None
        user = self.resources.inventory.find(User, transfer.session.user)
        self._audit.note(
            transfer.event,
            user=transfer.session.user,
            name="" if user is None else user.name,
            address=transfer.address,
            target_type="" if transfer.target is None else "disk",
            target=transfer.target,
            arguments=json.dumps(transfer.told | {"bytes": transfer.count}),
            code=0 if fault is None else fault.faultCode,
            error="" if fault is None else fault.faultString,
        )

    # Checks during transfers.

    def _schedule(self) -> None:
        if self._looking is None:
            self._looking = self.resources.clock.callLater(LOOK, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        self._look()
        for transfer in self._under_way:
            transfer.keep_session()
        if self._under_way:
            self._schedule()

    def _look(self) -> None:
        for transfer in list(self._under_way):
            try:
                transfer.check()
            except ApiFault as fault:
                transfer.stop(fault)

    def _changed(self, rows: list[ChangeRow]) -> None:
        if self._under_way and any(row.type in CONCERNED for row in rows):
            self._look()

    # Shutdown.

    def let_go(self, sending: Sending) -> None:
        """Record that everything received of an upload is written."""
        del self._sending[sending.session.user, sending.name]

    async def stop(self) -> None:
        """End all transfers, because the server is stopping."""
        fault = Unavailable("The server is stopping: continue when it is back.")
        sendings = list(self._sending.values())
        for transfer in list(self._under_way):
            transfer.stop(fault)
            transfer.close(fault)
        for sending in sendings:
            await sending.after()


class Transfer:
    """
    One running transfer. It counts until it is closed, which the owner of its connection does when the connection has ended.

    @ivar event: its name in the audit log.
    @ivar told: its arguments in the audit log.
    @ivar target: the id of the disk that is downloaded; C{None} for an upload.
    @ivar count: number of bytes transferred.
    @ivar closed: whether it has ended.
    @ivar asking: whether the server is waiting for a compute node.
    @ivar fault: why it must not continue; C{None} while it is allowed to.
    @ivar on_stop: called with the fault when it must not continue.
    """

    event = ""
    target: int | None = None

    def __init__(self, transfers: Transfers, session: Session, address: str, told: dict[str, Any]) -> None:
        self.session = session
        self.address = address
        self.told = told
        self.count = 0
        self.fault: ApiFault | None = None
        self.on_stop: Callable[[ApiFault], None] = lambda fault: None
        self._transfers = transfers
        self._seen = 0
        self.closed = False
        self.asking = False

    def check(self) -> object:
        """
        Check that it is still allowed.

        @raise ApiFault: it must not continue; the fault says why.
        """
        if self.fault is not None:
            raise self.fault
        return self._transfers.rightful(self.session)

    def keep_session(self) -> None:
        """Count as a ping while bytes are transferred or the server waits for a compute node."""
        if (self.asking or self.count != self._seen) and self._transfers.resources.sessions.lives(self.session):
            self._seen = self.count
            self._transfers.resources.sessions.touch(self.session)

    def stop(self, fault: ApiFault) -> None:
        """Stop the transfer, because it must not continue. A second call does nothing."""
        if self.fault is None:
            self.fault = fault
            self.on_stop(fault)

    def close(self, fault: ApiFault | None) -> None:
        """Record that it has ended. A second call does nothing. @param fault: why it isn't complete; C{None} if it is."""
        if not self.closed:
            self.closed = True
            self._transfers.leave(self, self.fault or fault)


class Sending(Transfer):
    """
    A running upload.

    @ivar name: the upload's name.
    @ivar writing: writes its bytes.
    """

    event = "upload"
    writing: Writing

    def __init__(self, transfers: Transfers, session: Session, address: str, name: str) -> None:
        super().__init__(transfers, session, address, {"upload": name})
        self.name = name
        self._gone = False
        self._waiting: list[Deferred[None]] = []

    def let_go(self) -> None:
        """Record that the last byte is written. Must be called exactly once."""
        self._gone = True
        self._transfers.let_go(self)
        for waiting in self._waiting:
            waiting.callback(None)

    def after(self) -> Deferred[None]:
        """Return a Deferred that fires when everything received is written."""
        waiting: Deferred[None] = Deferred()
        if self._gone:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting


class Fetching(Transfer):
    """
    A running download of a disk.

    @ivar watch: notices tasks that claim the disk.
    @ivar tag: stays the same as long as the disk's content does.
    """

    event = "download"
    tag = ""
    watch: Watch | None = None

    def __init__(self, transfers: Transfers, session: Session, address: str, disk: int) -> None:
        super().__init__(transfers, session, address, {})
        self.target = disk

    def check(self) -> Disk:
        """As in the base class. @return: the disk."""
        super().check()
        inventory, user = self._transfers.resources.inventory, self._transfers.rightful(self.session)
        assert self.target is not None
        check_object(inventory, user, "disk", self.target)
        disk = inventory.get(Disk, self.target)
        if disk.state != "ready":
            raise Conflict(f"Disk {disk.name} is {disk.state}: it must be ready.")
        vm = None if disk.vm is None else inventory.get(VM, disk.vm)
        if vm is not None and vm.powered:
            raise Conflict(f"Disk {disk.name} is in use by VM {vm.name}, which is running: stop the VM first.")
        return disk

    async def open(self) -> Contents:
        """
        Open the disk's content.

        @raise ApiFault: it can't be read; the fault says why.
        """
        disk = self.check()
        self.asking = True
        try:
            connection = await self._transfers.resources.nodes.connection(disk.compute_node, IImages)
            length = await connection.measure_volume(disk.pool, disk.volume, disk.format)
        except NoSuchThing:
            raise NotFound(f"Disk {disk.name} is gone from its compute node.") from None
        finally:
            self.asking = False
        self.check()
        return Contents(disk, length, connection)

    async def read(self, contents: Contents, offset: int, length: int) -> bytes:
        """
        Read a part of the disk's content.

        @raise ApiFault: the download must not continue: the data could be newer than what was read before.
        """
        self.asking = True
        try:
            data = await contents.read(offset, length)
        finally:
            self.asking = False
        self.check()
        return data

    def close(self, fault: ApiFault | None) -> None:
        """As in the base class."""
        if self.watch is not None:
            self.watch.end()
        super().close(fault)


class Contents:
    """
    A disk's content.

    @ivar name: a file name for it.
    @ivar length: its length in bytes.
    """

    def __init__(self, disk: Disk, length: int, connection: IImages) -> None:
        self.name = f"{disk.name}.{disk.format}"
        self.length = length
        self._disk = disk
        self._connection = connection

    def read(self, offset: int, length: int) -> Deferred[bytes]:
        """Read a part of it."""
        disk = self._disk
        found: Deferred[bytes] = self._connection.read_volume(disk.pool, disk.volume, disk.format, offset, length)
        return found


def _checked(name: str) -> str:
    if not re.fullmatch(UPLOAD_NAME, name):
        raise InvalidParams(f"upload: must be {NAME_RULE}.")
    return name
