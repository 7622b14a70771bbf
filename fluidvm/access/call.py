"""The call object that API methods get, and the check of the objects that a call names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fluidvm.access.consoles import Consoles
from fluidvm.auth import permissions
from fluidvm.auth.audit import AuditLog
from fluidvm.auth.logins import Logins
from fluidvm.auth.sessions import Session
from fluidvm.engine.engine import Engine
from fluidvm.engine.job import Resources
from fluidvm.engine.rehearsal import Rehearsals
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.declare import Method
from fluidvm.model.faults import NotLoggedIn
from fluidvm.model.kinds import Reference, References
from fluidvm.model.objects import User
from fluidvm.store.database import Database


@dataclass(frozen=True)
class Services:
    """The server's objects that API methods need."""

    resources: Resources
    database: Database
    engine: Engine
    logins: Logins
    audit: AuditLog
    certificate_users: Mapping[str, str]
    consoles: Consoles
    rehearsals: Rehearsals


class Call:
    """
    One running call.

    @ivar address: the client's address.
    @ivar certificate: the client's verified certificate; C{None} if it presented none.
    """

    __slots__ = ("_session", "_user", "address", "certificate", "services")

    def __init__(
        self,
        services: Services,
        address: str,
        session: Session | None = None,
        user: User | None = None,
        certificate: object = None,
    ) -> None:
        self.services = services
        self.address = address
        self.certificate = certificate
        self._session = session
        self._user = user

    @property
    def session(self) -> Session:
        """The caller's session. @raise NotLoggedIn: the call is anonymous."""
        if self._session is None:
            raise NotLoggedIn("You are not logged in: authenticate first.")
        return self._session

    @property
    def user(self) -> User:
        """The caller. @raise NotLoggedIn: the call is anonymous."""
        if self._user is None:
            raise NotLoggedIn("You are not logged in: authenticate first.")
        return self._user

    @property
    def inventory(self) -> Inventory:
        """All objects."""
        return self.services.resources.inventory

    @property
    def engine(self) -> Engine:
        """The execution contexts."""
        return self.services.engine

    def admit(self, method: Method, references: References) -> None:
        """
        Check that the caller is allowed to use the objects that a call names.

        A task can name an object that a committed task, or an earlier task of the same session, will create.

        @raise NotFound: an object doesn't exist, or the caller is not allowed to see it; the fault is the same.
        @raise Forbidden: the caller is allowed to see an object, but not to change it.
        """
        for reference in references:
            if reference.type == "execution_context":
                continue  # not in the inventory: the engine checks it
            if method.task and self._promised(reference):
                continue
            # A user who is allowed to see an image is allowed to create disks and VMs from it.
            change = method.task and (reference.type != "image" or method.target == "image")
            permissions.check_object(
                self.inventory, self.user, reference.type, reference.id, method.name, reference.path, change
            )

    def _promised(self, reference: Reference) -> bool:
        key = (reference.type, reference.id)
        if key in self.session.promised:
            return True
        owner = self.engine.promised_to(key)
        return owner is not None and permissions.owns(self.user, owner)
