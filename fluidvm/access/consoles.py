"""
Consoles: the tickets that open them, and how long they stay open. Their bytes pass through L{fluidvm.wire.websocket}.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from twisted.internet.interfaces import IProtocol

from fluidvm.auth.audit import AuditLog
from fluidvm.auth.permissions import check_console, session_user
from fluidvm.auth.sessions import Session
from fluidvm.driver import Interface, ISerialConsole, IVncConsole, NoSuchThing, WrongState
from fluidvm.engine.job import Resources
from fluidvm.model.faults import ApiFault, Conflict, NotFound, TooLarge, Unavailable
from fluidvm.model.objects import VM, User

KINDS: dict[str, type[Interface]] = {"serial": ISerialConsole, "vnc": IVncConsole}
"""The kinds of consoles, each with the ability that it needs."""
LIFE = 30.0
"""Seconds for which a ticket is valid."""
MOST_TICKETS = 20
"""Maximum number of unused tickets of one session."""
MOST_OPEN = 20
"""Maximum number of open consoles of one user, in all sessions together."""
ON = ("running", "paused")
"""States in which a VM has a console."""


@dataclass(frozen=True)
class _Ticket:
    session: Session
    vm: int
    kind: str
    expires: float


class Consoles:
    """
    Tickets for consoles. A ticket opens one console, once. Whoever has it can use it, so a user can pass it to a browser.

    @param resources: what consoles need.
    """

    def __init__(self, resources: Resources, audit: AuditLog) -> None:
        self._resources = resources
        self._audit = audit
        self._tickets: dict[str, _Ticket] = {}
        self._open: set[Console] = set()

    def issue(self, session: Session, vm: int, kind: str) -> tuple[str, float]:
        """
        Create a ticket.

        @param kind: a key of L{KINDS}.
        @return: the ticket, and when it expires, in seconds since the epoch.
        @raise Conflict: the VM isn't running.
        @raise TooLarge: the session has too many unused tickets.
        """
        now = self._resources.clock.seconds()
        self._tickets = {text: ticket for text, ticket in self._tickets.items() if ticket.expires > now}
        if sum(ticket.session is session for ticket in self._tickets.values()) >= MOST_TICKETS:
            raise TooLarge(f"This session has {MOST_TICKETS} unused console tickets: use them, or wait {LIFE:g} s.")
        record = self._resources.inventory.get(VM, vm)
        if record.state not in ON:
            raise Conflict(f"VM {record.name} is {record.state}: it has a console only while it is running or paused.")
        text = secrets.token_urlsafe(32)
        self._tickets[text] = _Ticket(session, vm, kind, now + LIFE)
        return text, self._resources.wall_clock() + LIFE

    def take(self, text: str) -> Console:
        """
        Use a ticket.

        @raise NotFound: it is unknown, used or expired, or the user is not allowed to use the console any more.
        """
        ticket = self._tickets.pop(text, None)
        if ticket is not None and ticket.expires > self._resources.clock.seconds():
            console = Console(self._resources, self._audit, self._open, ticket.session, ticket.vm, ticket.kind)
            if not console.ended():
                return console
        raise NotFound("This console does not exist or has expired: call get_vm_console again.")


class Console:
    """
    The console that a ticket was issued for.

    @param under_way: all open consoles; this one is among them until L{left} is called.
    """

    def __init__(
        self, resources: Resources, audit: AuditLog, under_way: set[Console], session: Session, vm: int, kind: str
    ) -> None:
        self._resources = resources
        self._audit = audit
        self._open = under_way
        self._session = session
        self._vm = vm
        self._kind = kind

    async def open(self, viewer: IProtocol, address: str) -> None:
        """
        Connect a viewer to the console, by the driver's verb. The viewer must call L{left} when it has lost its connection.

        @param address: the viewer's address.
        @raise Unavailable: the user has too many open consoles.
        @raise ApiFault: the console can't be opened now; the fault says why.
        """
        inventory, session = self._resources.inventory, self._session
        record = inventory.get(VM, self._vm)
        if sum(other._session.user == session.user for other in self._open) >= MOST_OPEN:
            raise Unavailable(f"You already have {MOST_OPEN} consoles open: close one of them.")
        self._open.add(self)
        try:
            await self._connect(record, viewer)
        except BaseException:
            self.left()
            raise
        self._audit.note(
            "console",
            user=session.user,
            name=inventory.get(User, session.user).name,
            address=address,
            target_type="vm",
            target=self._vm,
            arguments=self._kind,
        )

    async def _connect(self, record: VM, viewer: IProtocol) -> None:
        nodes, node = self._resources.nodes, record.compute_node
        try:
            if self._kind == "serial":
                await (await nodes.connection(node, ISerialConsole)).open_serial(record.uuid, viewer)
            else:
                await (await nodes.connection(node, IVncConsole)).open_vnc(record.uuid, viewer)
        except NoSuchThing:
            raise NotFound(f"VM {record.name} is gone from its compute node.") from None
        except WrongState as error:
            raise Conflict(str(error)) from None

    def ended(self) -> str:
        """Return the reason why the user is not allowed to use the console any more; empty while it is."""
        inventory = self._resources.inventory
        try:
            user = session_user(inventory, self._resources.sessions, self._session)
            check_console(inventory, user, self._vm)
        except ApiFault as fault:
            return fault.faultString
        return ""

    def left(self) -> None:
        """Record that the viewer has disconnected, so that the user can open another console. A second call does nothing."""
        self._open.discard(self)

    def touch(self) -> None:
        """Record that the viewer is active, which counts as a ping of the session."""
        if self._resources.sessions.lives(self._session):
            self._resources.sessions.touch(self._session)
