"""Who may connect to which VM's console: tickets, and how long what they opened stays."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IProtocol

from fluidvm.audit import AuditLog
from fluidvm.driver import Interface, ISerialConsole, IVncConsole, NoSuchThing, WrongState
from fluidvm.engine.entitlement import check_console, session_user
from fluidvm.engine.job import Resources
from fluidvm.faults import ApiFault, Conflict, NotFound, TooLarge
from fluidvm.objects import VM, User
from fluidvm.sessions import Session

KINDS: dict[str, tuple[type[Interface], str]] = {
    "serial": (ISerialConsole, "open_serial"), "vnc": (IVncConsole, "open_vnc"),
}  # fmt: skip
"""Each kind of console, with the ability and its verb."""
LIFE = 30.0
"""Seconds that a ticket may be used in."""
MOST_TICKETS = 20
"""How many unused tickets a session may have."""
ON = ("running", "paused")


@dataclass(frozen=True)
class _Ticket:
    session: Session
    vm: int
    kind: str
    expires: float


class Consoles:
    """
    Tickets for consoles. Each opens one console once, whoever brings it: a user can hand it to the browser that shall look.

    @param resources: what consoles are opened with.
    """

    def __init__(self, resources: Resources, audit: AuditLog) -> None:
        self._resources = resources
        self._audit = audit
        self._tickets: dict[str, _Ticket] = {}

    def issue(self, session: Session, vm: int, kind: str) -> tuple[str, float]:
        """
        Make a ticket.

        @param kind: a key of L{KINDS}.
        @return: the ticket, and until when it can be used, in seconds since the epoch.
        @raise Conflict: the VM doesn't run.
        @raise TooLarge: the session has too many.
        """
        now = self._resources.clock.seconds()
        self._tickets = {text: ticket for text, ticket in self._tickets.items() if ticket.expires > now}
        if sum(ticket.session is session for ticket in self._tickets.values()) >= MOST_TICKETS:
            raise TooLarge(f"{MOST_TICKETS} consoles wait to be opened already: open them, or wait for {LIFE:g} s.")
        record = self._resources.inventory.get(VM, vm)
        if record.state not in ON:
            raise Conflict(f"VM {record.name} is {record.state}: it has a console when it runs.")
        text = secrets.token_urlsafe(32)
        self._tickets[text] = _Ticket(session, vm, kind, now + LIFE)
        return text, self._resources.wall_clock() + LIFE

    def take(self, text: str) -> Console:
        """
        Use a ticket.

        @raise NotFound: it is unknown, used, too old, or what it was given for doesn't hold any more.
        """
        ticket = self._tickets.pop(text, None)
        if ticket is not None and ticket.expires > self._resources.clock.seconds():
            console = Console(self._resources, self._audit, ticket.session, ticket.vm, ticket.kind)
            if not console.ended():
                return console
        raise NotFound("There is no such console, or not any more: ask get_vm_console for another.")


class Console:
    """A console that a ticket was given for."""

    def __init__(self, resources: Resources, audit: AuditLog, session: Session, vm: int, kind: str) -> None:
        self._resources = resources
        self._audit = audit
        self._session = session
        self._vm = vm
        self._kind = kind

    async def open(self, viewer: IProtocol, address: str) -> None:
        """
        Connect a viewer, as the driver's verbs do.

        @param address: where the viewer is.
        @raise ApiFault: it can't be had now, and why.
        """
        inventory, session = self._resources.inventory, self._session
        record = inventory.get(VM, self._vm)
        ability, verb = KINDS[self._kind]
        connection: Any = await self._resources.nodes.connection(record.compute_node, ability)
        try:
            await getattr(connection, verb)(record.uuid, viewer)
        except NoSuchThing:
            raise NotFound(f"VM {record.name} is gone from its compute node.") from None
        except WrongState as error:
            raise Conflict(str(error)) from None
        self._audit.note(
            "console", user=session.user, name=inventory.get(User, session.user).name, address=address, target_type="vm",
            target=self._vm, arguments=self._kind,
        )  # fmt: skip

    def ended(self) -> str:
        """Tell why the console may not be used any more; empty while it may."""
        inventory = self._resources.inventory
        try:
            user = session_user(inventory, self._resources.sessions, self._session)
            check_console(inventory, user, self._vm)
        except ApiFault as fault:
            return fault.faultString
        return ""

    def touch(self) -> None:
        """Someone is there: it counts as the session's ping."""
        if self._resources.sessions.lives(self._session):
            self._resources.sessions.touch(self._session)
