"""Who may send and fetch which bytes beside the calls: uploads for images, and disks' contents."""

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
"""How many transfers may be under way together."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,32}")
MOST_OF_USER = 4
"""How many of them may be one user's."""
LOOK = 1.0
"""Seconds between two looks at whether transfers may go on."""
CONCERNED = ("user", "vm", "disk")
"""Types of objects whose changes can end a transfer."""


class Transfers:
    """
    All transfers. Each holds one of few places until it is closed.

    @param resources: what they work with.
    @param claims: which objects tasks hold.
    @param audit: gets a line of each.
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
        """Wait as long as the answer to a wrong cookie is held back, after many others from an address."""
        return deferLater(self.resources.clock, self.resources.sessions.hold(address), lambda: None)

    # Who asks.

    def _session(self, cookie: str, address: str) -> Session:
        """
        Tell whose cookie this is.

        @raise InvalidParams: no cookie looks so.
        @raise NotLoggedIn: nobody who is logged in.
        @raise HeldBack: the one or the other, after many from this address: see L{held_back}.
        """
        if not cookie:
            raise NotLoggedIn("You are not logged in: authenticate first, then send the cookie.")
        session = self.resources.sessions.find(int(cookie) if _NUMBER.fullmatch(cookie) else cookie, address)
        self.rightful(session)
        self.resources.sessions.touch(session)
        return session

    def rightful(self, session: Session) -> User:
        """
        Give a session's user, if it may send and fetch bytes as it is now.

        @raise NotLoggedIn: the session has ended, or the user is gone or disabled.
        @raise Forbidden: the user only looks on.
        """
        user = session_user(self.resources.inventory, self.resources.sessions, session)
        check_transfer(user)
        return user

    async def uploaded(self, cookie: str, address: str, name: str) -> int:
        """
        Tell how many bytes of an upload are there; 0 where there is none.

        @raise ApiFault: the caller may not know; says why.
        """
        session = self._session(cookie, address)
        sending = self._sending.get((session.user, _checked(name)))
        if sending is not None and sending.closed:  # its connection has just broken: go on behind what came
            await sending.after()
        return await self.resources.images.uploaded(session.user, name) or 0

    # What is under way.

    def send(self, cookie: str, address: str, name: str, start: int, length: int | None) -> Sending:
        """
        Begin an upload.

        @param name: its name.
        @param start: where its bytes go, from the file's beginning.
        @param length: how many there will be; C{None}: that isn't known.
        @raise ApiFault: it may not be; says why.
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
        Begin to give a disk's bytes.

        It ends when a task wants the disk, or its VM: what is given then may be from before and after it.

        @raise Conflict: it is in use.
        @raise ApiFault: it may not be; says why.
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
        """A transfer has ended: its place is free. @param fault: why it isn't complete."""
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

    # Whether it may go on.

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

    # The server's end.

    def let_go(self, sending: Sending) -> None:
        """What came of an upload is written, and nobody is at work on it."""
        del self._sending[sending.session.user, sending.name]

    async def stop(self) -> None:
        """End all transfers: the server stops."""
        fault = Unavailable("The server is stopping: continue when it is back.")
        sendings = list(self._sending.values())
        for transfer in list(self._under_way):
            transfer.stop(fault)
            transfer.close(fault)
        for sending in sendings:
            await sending.after()


class Transfer:
    """
    One transfer under way. It holds a place until it is closed, which who has the connection does when that has ended.

    @ivar event: what the audit log calls it.
    @ivar told: what the audit log tells of it.
    @ivar target: the id of the disk that it is of.
    @ivar count: bytes that have been moved.
    @ivar closed: it has ended.
    @ivar asking: the server itself waits for a compute node.
    @ivar fault: why it may not go on.
    @ivar on_stop: called with the fault when it may not go on any more.
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
        See whether it may go on as it is now.

        @raise ApiFault: it may not; says why.
        """
        if self.fault is not None:
            raise self.fault
        return self._transfers.rightful(self.session)

    def keep_session(self) -> None:
        """While bytes move, or the server waits for those of a compute node, the session stays: it counts as a ping."""
        if (self.asking or self.count != self._seen) and self._transfers.resources.sessions.lives(self.session):
            self._seen = self.count
            self._transfers.resources.sessions.touch(self.session)

    def stop(self, fault: ApiFault) -> None:
        """It may not go on any more. A repetition does nothing."""
        if self.fault is None:
            self.fault = fault
            self.on_stop(fault)

    def close(self, fault: ApiFault | None) -> None:
        """It has ended. A repetition does nothing. @param fault: why it isn't complete; C{None}: it is."""
        if not self.closed:
            self.closed = True
            self._transfers.leave(self, self.fault or fault)


class Sending(Transfer):
    """
    An upload under way.

    @ivar name: the upload's.
    @ivar writing: where its bytes go.
    """

    event = "upload"
    writing: Writing

    def __init__(self, transfers: Transfers, session: Session, address: str, name: str) -> None:
        super().__init__(transfers, session, address, {"upload": name})
        self.name = name
        self._gone = False
        self._waiting: list[Deferred[None]] = []

    def let_go(self) -> None:
        """To be called once, after the last byte is written."""
        self._gone = True
        self._transfers.let_go(self)
        for waiting in self._waiting:
            waiting.callback(None)

    def after(self) -> Deferred[None]:
        """Fires when nobody is at work on the upload any more."""
        waiting: Deferred[None] = Deferred()
        if self._gone:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting


class Fetching(Transfer):
    """
    A disk's bytes under way.

    @ivar watch: sees the tasks that want the disk.
    @ivar tag: the same as long as the disk's bytes are.
    """

    event = "download"
    tag = ""
    watch: Watch | None = None

    def __init__(self, transfers: Transfers, session: Session, address: str, disk: int) -> None:
        super().__init__(transfers, session, address, {})
        self.target = disk

    def check(self) -> Disk:
        """As the base class has it. @return: the disk."""
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
        Give the disk's bytes.

        @raise ApiFault: they can't be had; says why.
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
        Read some of the disk's bytes.

        @raise ApiFault: it may not go on any more: what was read may be newer than what came before.
        """
        self.asking = True
        try:
            data = await contents.read(offset, length)
        finally:
            self.asking = False
        self.check()
        return data

    def close(self, fault: ApiFault | None) -> None:
        """As the base class has it."""
        if self.watch is not None:
            self.watch.end()
        super().close(fault)


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


def _checked(name: str) -> str:
    if not re.fullmatch(UPLOAD_NAME, name):
        raise InvalidParams(f"upload: must be {NAME_RULE}.")
    return name
