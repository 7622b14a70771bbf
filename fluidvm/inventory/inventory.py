"""
The current state of all objects, in memory, with indexes and rendered wire forms.

It is loaded when the server starts, and changes only when a transaction was committed. Queries read only the inventory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

from sortedcontainers import SortedDict
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm.inventory.change_log import WINDOW, ChangeLog
from fluidvm.inventory.ledger import Ledger, of_node
from fluidvm.model.faults import Conflict, NotFound, Unavailable
from fluidvm.model.object_fields import wire_form
from fluidvm.model.objects import OBJECT_TYPES, VM, ComputeNode, Disk, Image, Object, ResourcePlan, User
from fluidvm.model.xmlvalue import Rendered, render
from fluidvm.store import objects as stored
from fluidvm.store.database import Database, OutcomeUnknown
from fluidvm.store.objects import Change, ChangeRow, Create, Delete, Mention, Touch, Update

O = TypeVar("O", bound=Object)  # noqa: E741
T = TypeVar("T")
Write = tuple[Callable[..., Any], tuple[Any, ...]]
"""A store function to call in the same transaction, and its arguments after the connection."""

WORDS = {
    "vm": "VM",
    "disk": "disk",
    "compute_node": "compute node",
    "user": "user",
    "resource_plan": "resource plan",
    "execution_context": "execution context",
    "image": "image",
}
"""The names of the types in faults and log lines."""
INDEXED = frozenset({"id", "name", "owner", "uuid", "compute_node", "vm", "target", "resource_plan"})
"""Fields that indexes depend on."""
PUBLIC = ("compute_node", "resource_plan")
"""Types that everyone may see."""


class Entry:
    """An object and its wire form, which is made when it is first needed."""

    __slots__ = ("_broken", "_full", "_public", "_wire", "object")
    _log = Logger()

    def __init__(self, thing: Object) -> None:
        self.object = thing
        self._broken = False
        self.forget()

    def forget(self) -> None:
        """Drop the wire form, because something in it has changed."""
        self._wire: dict[str, Any] | None = None
        self._full: Rendered | None = None
        self._public: Rendered | None = None

    def wire(self, inventory: Inventory) -> dict[str, Any]:
        """Return the wire form as a struct, without keys that have no value."""
        if self._wire is None:
            try:
                shown = wire_form(self.object, inventory.related(self.object))
                self._wire = {key: value for key, value in shown.items() if value is not None}
            except Exception:
                self._wire = self._tell()
        return self._wire

    def _tell(self) -> dict[str, Any]:
        """Log that an object can't be shown, and return a substitute, so that the other objects can still be listed."""
        thing = self.object
        if not self._broken:
            self._broken = True
            self._log.failure("{type} {id} can't be shown", type=WORDS[thing.TYPE], id=thing.id)
        return {"id": thing.id, "name": str(thing.name), "broken": True}

    def only(self, inventory: Inventory, keys: Iterable[str]) -> Rendered:
        """Return the wire form as bytes, with only the given keys."""
        try:
            wire = self.wire(inventory)
            return Rendered(render({key: wire[key] for key in keys if key in wire}))
        except Exception:
            return Rendered(render(self._tell()))

    def full(self, inventory: Inventory) -> Rendered:
        """Return the wire form as bytes."""
        if self._full is None:
            self._full = self.only(inventory, self.wire(inventory))
        return self._full

    def public(self, inventory: Inventory) -> Rendered:
        """Return the wire form as bytes, without the keys that are hidden from plain users."""
        hidden = getattr(self.object, "HIDDEN", None)
        if hidden is None:
            return self.full(inventory)
        if self._public is None:
            self._public = self.only(inventory, [key for key in self.wire(inventory) if key not in hidden])
        return self._public


class Inventory:
    """
    All objects.

    @param database: where changes are stored first.
    @ivar log: the newest changes.
    @ivar ledger: the resources that each user and each compute node uses.
    """

    _log = Logger()

    def __init__(self, database: Database) -> None:
        self.log = ChangeLog()
        self.ledger = Ledger()
        self._database = database
        self._entries: dict[str, SortedDict] = {name: SortedDict() for name in OBJECT_TYPES}
        self._owned: dict[tuple[str, int], SortedDict] = {}
        self._names: dict[tuple[str, int | None, str], int] = {}
        self._uuids: dict[str, int] = {}
        self._disks_of: dict[int, set[int]] = {}
        self._vms_on: dict[int, set[int]] = {}
        self._users_of: dict[int, set[int]] = {}
        self._last_ids: dict[str, int] = {}
        self._stored_ids: dict[str, int] = {}
        self._rehearsed: list[tuple[Object | None, Object | None]] = []
        self._listeners: list[Callable[[list[ChangeRow]], None]] = []

    def load(self, connection: Connection) -> None:
        """Load everything from the store. Blocks: only for use before the reactor runs."""
        with connection.begin():
            for thing in stored.load(connection):
                self._add(thing)
            self.log.load(stored.load_changes(connection, WINDOW))
            self._last_ids = stored.load_counters(connection)
        for name, entries in self._entries.items():
            if entries:
                self._last_ids[name] = max(self._last_ids.get(name, 0), entries.peekitem()[0])

    def listen(self, callback: Callable[[list[ChangeRow]], None]) -> None:
        """Call C{callback} with the change log's new lines after each commit."""
        self._listeners.append(callback)

    # reading

    def find(self, cls: type[O], id: int) -> O | None:
        """Return the object of a type with an id; C{None} if there is none."""
        entry = self._entries[cls.TYPE].get(id)
        return None if entry is None else entry.object  # type: ignore[no-any-return]

    def knows(self, type_name: str, id: int) -> bool:
        """Return whether there is an object of a type with an id."""
        return id in self._entries[type_name]

    def get(self, cls: type[O], id: int) -> O:
        """
        Return the object of a type with an id.

        @raise NotFound: there is no such object.
        """
        thing = self.find(cls, id)
        if thing is None:
            raise missing(cls.TYPE, id)
        return thing

    def all(self, cls: type[O]) -> Iterable[O]:
        """Return every object of a type, in the order of the ids."""
        return [entry.object for entry in self._entries[cls.TYPE].values()]

    def named(self, cls: type[O], name: str, owner: int | None = None) -> O | None:
        """Return the object with a name; C{None} if there is none. Names of VMs, disks and images are unique per owner."""
        id = self._names.get((cls.TYPE, owner, name))
        return None if id is None else self.find(cls, id)

    def vm_of(self, uuid: str) -> VM | None:
        """Return the VM with a UUID; C{None} if there is none."""
        id = self._uuids.get(uuid)
        return None if id is None else self.find(VM, id)

    def disks_of(self, vm: int) -> list[Disk]:
        """Return a VM's disks in the order of their targets."""
        found = [cast(Disk, self._entries["disk"][id].object) for id in self._disks_of.get(vm, ())]
        return sorted(found, key=lambda disk: (len(disk.target or ""), disk.target or ""))

    def vms_on(self, node: int) -> list[VM]:
        """Return the VMs of a compute node, in the order of the ids."""
        return [self._entries["vm"][id].object for id in sorted(self._vms_on.get(node, ()))]

    def users_of(self, plan: int) -> list[User]:
        """Return the users who have a resource plan, in the order of the ids."""
        return [self._entries["user"][id].object for id in sorted(self._users_of.get(plan, ()))]

    def owns(self, user: int) -> Object | None:
        """Return one of the objects that a user owns, other than the user itself; C{None} if there is none."""
        for (type_name, owner), entries in self._owned.items():
            if owner == user and type_name != "user" and entries:
                return cast(Object, entries.peekitem(0)[1].object)
        return None

    def disks_on(self, node: int) -> list[Disk]:
        """Return the disks of a compute node, in the order of the ids."""
        return [disk for disk in self.all(Disk) if disk.compute_node == node]

    def related(self, thing: Object) -> Mapping[str, Any]:
        """Return the values of an object's C{RELATED} keys, which are derived from other objects."""
        if isinstance(thing, VM):
            return {"disks": [disk.id for disk in self.disks_of(thing.id)]}
        if isinstance(thing, ComputeNode):
            names = {"vms": "vms", "vcpus_used": "vcpus", "memory_used": "memory"}
            return {name: self.ledger.used(of_node(thing.id), what) for name, what in names.items()}
        if isinstance(thing, ResourcePlan):
            return {"users": len(self._users_of.get(thing.id, ()))}
        return {}

    def visible(self, type_name: str, id: int, viewer: User) -> Entry | None:
        """Return an object's entry if a user is allowed to see it; otherwise C{None}."""
        entry: Entry | None = self._entries[type_name].get(id)
        if entry is None:
            return None
        owner = entry.object.owner
        if owner is None or owner == viewer.id or viewer.role != "user" or _is_public(entry.object):
            return entry
        return None

    def shown(self, type_name: str, viewer: User, after: int = 0) -> Iterable[Entry]:
        """Return the entries of a type that a user is allowed to see, in the order of their ids, starting after an id."""
        if viewer.role == "user" and type_name == "image":  # there are few, and some of them are public
            all_of_them = self._entries[type_name].values()
            return [one for one in all_of_them if one.object.id > after and self.visible("image", one.object.id, viewer)]
        if viewer.role == "user" and type_name not in PUBLIC:
            entries = self._owned.get((type_name, viewer.id), {})
        else:
            entries = self._entries[type_name]
        if after:
            return (entries[id] for id in entries.irange(after, inclusive=(False, False)))  # type: ignore[union-attr]
        return entries.values()  # type: ignore[no-any-return]

    # writing

    def next_id(self, type_name: str) -> int:
        """Reserve an id; the next commit makes the reservation durable."""
        id = self._last_ids.get(type_name, 0) + 1
        self._last_ids[type_name] = id
        return id

    def _new_ids(self) -> dict[str, int]:
        """Return the highest reserved id of each type, if it changed since it was last stored."""
        new = {name: last for name, last in self._last_ids.items() if last != self._stored_ids.get(name)}
        self._stored_ids.update(new)
        return new

    def commit(self, changes: Sequence[Change], also: Sequence[Write] = ()) -> Deferred[list[Any]]:
        """
        Store changes in one transaction, then apply them to the inventory.

        @param also: further store functions to call in the same transaction.
        @return: a Deferred that fires with the results of the functions in C{also}.
        @raise Conflict: a name is already in use, or another object refers to a deleted one.
        @raise OutcomeUnknown: the store became unavailable during the commit; if it turns out that the transaction was
            committed, the changes are applied here later.
        @raise Unavailable: the store failed; nothing has changed.
        """
        owned = [(change, self._owner(change)) for change in changes]
        new_ids = self._new_ids() if changes else {}
        if new_ids:
            also = [*also, (stored.save_counters, (new_ids,))]
        done = self._database.run(_transaction, owned, also)
        return done.addCallbacks(self._committed, self._refused, (changes,), {}, (changes,))

    def read(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Read what the store alone has, in a transaction of its own.

        The answer comes after the commits that were asked for before it have become true here.

        @param function: a store function; it gets the connection, then C{args}.
        @return: fires with what it returned.
        @raise Unavailable: the store failed.
        """
        return self._database.run(function, *args)

    def write(self, function: Callable[..., T], *args: Any) -> Deferred[T]:
        """
        Write what only the store has, in a transaction of its own: no object changes, and the change log has no line of it.

        In order with commits, as L{read} is.

        @raise Conflict: what the rows refer to is gone.
        @raise OutcomeUnknown: the store went away in the middle.
        @raise Unavailable: the store failed; nothing is written.
        """
        return self._database.run(function, *args).addErrback(_contradicted)

    async def settle(self, changes: Sequence[Change], also: Sequence[Write] = ()) -> list[Any]:
        """As L{commit}, but if the outcome is unknown, wait until it is known. For use where no client is waiting."""
        try:
            return await self.commit(changes, also)
        except OutcomeUnknown as unknown:
            return cast("list[Any]", await unknown.outcome)

    def update_untracked(self, type_name: str, id: int, **fields: Any) -> None:
        """
        Set fields whose changes don't get a line in the change log, such as the time of the last login.

        The object's version stays the same. Nothing is stored.
        """
        entry = self._entries[type_name].get(id)
        if entry is not None:
            entry.object = replace(entry.object, **fields)
            entry.forget()

    def _owner(self, change: Change) -> int | None:
        if isinstance(change, Create):
            return None if _is_public(change.object) else change.object.owner
        if isinstance(change, Update | Touch | Delete):
            entry = self._entries[change.type].get(change.id)
            return None if entry is None or _is_public(entry.object) else entry.object.owner  # type: ignore[no-any-return]
        return change.owner

    def _refused(self, failure: Failure, changes: Sequence[Change]) -> Failure:
        self._stored_ids.clear()  # the next commit stores all of them again
        if isinstance(failure.value, OutcomeUnknown):
            failure.value.outcome.addCallbacks(self._committed, self._refused, (changes,), {}, (changes,))
        return _contradicted(failure)

    def _committed(self, outcome: tuple[list[ChangeRow], list[Any]], changes: Sequence[Change]) -> list[Any]:
        rows, results = outcome
        for change in changes:
            self._apply(change)
        if self.log.add(rows):
            forgetting = self._database.run(stored.forget_changes, WINDOW)
            forgetting.addErrback(self._not_forgotten)
        for listener in self._listeners:
            try:
                listener(rows)
            except Exception:
                self._log.failure("A change listener failed")
        return results

    def _not_forgotten(self, failure: Failure) -> None:
        if failure.check(Unavailable) is None:  # otherwise the next time drops them, too
            self._log.failure("Old changes can't be deleted from the store", failure)

    def _apply(self, change: Change) -> tuple[Object | None, Object | None]:
        """Apply a change to the inventory. @return: the object before and after it."""
        if isinstance(change, Create):
            self._add(change.object)
            return None, change.object
        if isinstance(change, Mention):
            return None, None
        entry = self._entries[change.type].get(change.id)
        if entry is None:
            return None, None
        before: Object = entry.object
        if isinstance(change, Delete):
            self._remove(before)
            return before, None
        # The store counts versions in the same way, as it has written exactly these changes.
        fields = {} if isinstance(change, Touch) else change.fields
        after = replace(before, **fields, version=before.version + 1)
        if INDEXED.isdisjoint(fields):
            entry.object = after
            entry.forget()
            self.ledger.remove(before)
            self.ledger.add(after)
            self._forget_related(after)
        else:
            self._remove(before)
            self._add(after)
        return before, after

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Allow L{rehearse} within the block; all changes are undone when it ends. Nothing else must run meanwhile."""
        self._rehearsed = []
        ids = dict(self._last_ids)
        try:
            yield
        finally:
            for before, after in reversed(self._rehearsed):
                if after is not None:
                    self._remove(after)
                if before is not None:
                    self._add(before)
            self._last_ids = ids

    def rehearse(self, changes: Sequence[Change]) -> None:
        """Apply changes until the rehearsal ends; nothing is stored."""
        self._rehearsed += [self._apply(change) for change in changes]

    def _add(self, thing: Object) -> None:
        entry = Entry(thing)
        self._entries[thing.TYPE][thing.id] = entry
        if thing.owner is not None:
            owned = self._owned.get((thing.TYPE, thing.owner))
            if owned is None:
                owned = self._owned[thing.TYPE, thing.owner] = SortedDict()
            owned[thing.id] = entry
        self._names[_name_key(thing)] = thing.id
        if isinstance(thing, VM):
            self._uuids[thing.uuid] = thing.id
            self._vms_on.setdefault(thing.compute_node, set()).add(thing.id)
        elif isinstance(thing, Disk) and thing.vm is not None:
            self._disks_of.setdefault(thing.vm, set()).add(thing.id)
        elif isinstance(thing, User) and thing.resource_plan is not None:
            self._users_of.setdefault(thing.resource_plan, set()).add(thing.id)
        self.ledger.add(thing)
        self._forget_related(thing)

    def _remove(self, thing: Object) -> None:
        del self._entries[thing.TYPE][thing.id]
        if thing.owner is not None:
            del self._owned[thing.TYPE, thing.owner][thing.id]
        del self._names[_name_key(thing)]
        if isinstance(thing, VM):
            del self._uuids[thing.uuid]
            self._vms_on[thing.compute_node].discard(thing.id)
        elif isinstance(thing, Disk) and thing.vm is not None:
            self._disks_of[thing.vm].discard(thing.id)
        elif isinstance(thing, User) and thing.resource_plan is not None:
            self._users_of[thing.resource_plan].discard(thing.id)
        self.ledger.remove(thing)
        self._forget_related(thing)

    def _forget_related(self, thing: Object) -> None:
        if isinstance(thing, VM):
            related = self._entries["compute_node"].get(thing.compute_node)
        elif isinstance(thing, Disk) and thing.vm is not None:
            related = self._entries["vm"].get(thing.vm)
        elif isinstance(thing, User) and thing.resource_plan is not None:
            related = self._entries["resource_plan"].get(thing.resource_plan)
        else:
            return
        if related is not None:
            related.forget()


def _contradicted(failure: Failure) -> Failure:
    # Names are checked earlier; this catches two changes that were checked at the same time.
    if failure.check(IntegrityError):
        return Failure(Conflict("Another object already has this name, or still refers to this object."))
    return failure


def _name_key(thing: Object) -> tuple[str, int | None, str]:
    return (thing.TYPE, thing.owner if isinstance(thing, VM | Disk | Image) else None, thing.name)


def _is_public(thing: Object) -> bool:
    """Whether everybody is allowed to see an object that has an owner."""
    return isinstance(thing, Image) and thing.public


def missing(type_name: str, id: int) -> NotFound:
    """Make the fault for an object that doesn't exist or that the caller is not allowed to see; there is no difference."""
    return NotFound(f"There is no {WORDS[type_name]} {id}.")


def _transaction(
    connection: Connection, changes: Sequence[tuple[Change, int | None]], also: Sequence[Write]
) -> tuple[list[ChangeRow], list[Any]]:
    results = [function(connection, *args) for function, args in also]
    return stored.write(connection, changes), results
