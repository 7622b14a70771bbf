"""A small fleet in a random state, chosen by hypothesis."""

from __future__ import annotations

import uuid
import xmlrpc.client
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail

from fluidvm.driver import DomainDisk, DomainInterface, DomainSpec, DomainState, Unreachable
from fluidvm.drivers.simulator.driver import SimulatorDriver
from fluidvm.drivers.simulator.host import SimulatedHost
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.declare import METHODS
from fluidvm.model.faults import Unavailable
from fluidvm.model.objects import OBJECT_TYPES, VM, ComputeNode, Disk, Object
from tests.inline import InlineServer, now
from tests.support import PASSWORD
from tests.unit.api.storage.test_images import qcow2

T = TypeVar("T")
MIB = 2**20
NAMES = ("a", "b", "c", "d")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
ACTORS = ("admin", "admin", "admin", "ann", "ann", "bob")
LIMITS = {
    "vms": 3,
    "running_vms": 1,
    "vcpus": 6,
    "memory": 500,
    "disks": 4,
    "disk_space": 30,
    "snapshots": 2,
    "vm_vcpus": 3,
    "vm_memory": 300,
    "vm_disk": 20,
    "default_vcpus": 2,
    "default_memory": 64,
    "default_disk": 2,
    "cpu_shares": 512,
    "disk_iops": 100,
    "disk_mbps": 10,
    "network_mbps": 10,
    "drivers": ["kvm"],
}


class Fleet:
    """
    @param server: a new server.
    @param choose: returns a number from 0 to below its argument.
    """

    def __init__(self, server: InlineServer, choose: Callable[[int], int]) -> None:
        self._server = server
        self._choose = choose
        self._down: set[str] = set()
        self._strangers: list[tuple[int, str]] = []
        self.promised: dict[str, list[int]] = {}

    @property
    def inventory(self) -> Inventory:
        return self._server.running.server.inventory

    # Choosing.

    def one(self, values: Sequence[T]) -> T:
        return values[self._choose(len(values))]

    def maybe(self) -> bool:
        return self.one((False, True))

    def some(self, values: Sequence[T], most: int = 3) -> list[T]:
        left, found = list(values), []
        for _ in range(self._choose(most + 1)):
            if left:
                found.append(left.pop(self._choose(len(left))))
        return found

    def id(self, cls: type[Object]) -> int:
        """The id of an existing object, of one that a task of the same batch will create, or of none."""
        known = [thing.id for thing in self.inventory.all(cls)] + self.promised.get(cls.TYPE, [])
        return self.one(sorted(set(known)) or (1,))

    def pair(self, pairs: Sequence[tuple[int, int]], *others: int) -> tuple[int, int]:
        """Two ids that belong together, or two that need not."""
        together: list[tuple[int, int]] = [*pairs, *pairs, others]  # type: ignore[list-item]
        return self.one(together)

    def next(self, type_name: str) -> int:
        """The id that a task of the same batch may give to its snapshot or interface."""
        return self.inventory._last_ids.get(type_name, 0) + 1

    # The initial state.

    def connect(self, original: Any) -> Callable[..., Deferred[Any]]:
        """The simulator's C{connect}, for nodes that may be down."""

        def connect(driver: SimulatorDriver, address: str, options: Any, host: Any) -> Deferred[Any]:
            if host.node in self._down:
                return fail(Unreachable("It is down."))
            done: Deferred[Any] = original(driver, address, options, host)
            return done

        return connect

    def build(self) -> None:
        """Create nodes, plans, users and images; batches create everything else."""
        cookie = self._server.login()
        for name in ("n1", "n2", "n3"):
            self.queue(cookie, "add_compute_node", name, "simulator", "", {"vcpus": 1, "memory": 1000})
        plan = self.queue(cookie, "create_resource_plan", "plan", self.limits())
        ann = self.queue(cookie, "create_user", "ann", PASSWORD)
        self.queue(cookie, "create_user", "bob", PASSWORD)
        self.commit(cookie)
        for format, data in (("raw", bytes(2 * MIB)), ("qcow2", qcow2(3 * MIB))):
            self.upload(1, format, data)
            self.queue(cookie, "import_image", {"name": format, "format": format, "upload": format, "public": True})
        nodes = [node.id for node in self.inventory.all(ComputeNode)]
        for number in range(4):
            owner = self.one((1, ann))
            disks = [{"size": self.one((1, 5))} for _ in range(self.one((0, 1, 2)))]
            spec = {"name": f"vm{number}", "owner": owner, "compute_node": nodes[number % 2], "disks": disks}
            vm = self.queue(
                cookie, "create_vm", spec | {"memory": 64, "max_memory": 128, "vcpus": 1, "max_vcpus": self.one((1, 2))}
            )
            for verb in self.one(((), ("start",), ("start", "pause"), ("start", "save"))):
                self.queue(cookie, f"{verb}_vm", vm)
            if self._choose(4) == 0:
                self.queue(cookie, "create_vm_snapshot", vm, "kept")
        for number, format in enumerate(("raw", "qcow2")):
            spec = {"name": f"disk{number}", "size": 2, "format": format, "compute_node": nodes[number], "owner": ann}
            disk = self.queue(cookie, "create_disk", spec)
            if self.maybe():
                self.queue(cookie, "create_disk_snapshot", disk, "kept")
        self.queue(cookie, "set_user_resource_plan", ann, plan)
        self.commit(cookie)
        self._stranger()

    def limits(self) -> dict[str, Any]:
        return {name: LIMITS[name] for name in self.some(sorted(LIMITS), 4)}

    def upload(self, user: int, name: str, data: bytes) -> None:
        uploads = self._server.running.server.uploads

        async def send() -> None:
            writing = uploads.begin(user, name, 0, len(data))
            await writing.register()
            await writing.write(data)
            await writing.end()

        now(Deferred.fromCoroutine(send()), "an upload")

    def all(self) -> list[Any]:
        """The current state of every object."""
        return [list(self.inventory.all(cls)) for cls in OBJECT_TYPES.values()]

    def host(self, node: int) -> SimulatedHost:
        return SimulatedHost.at(self._server.running.server._settings.state / f"node-{node}", {"vcpus": 1, "memory": 1000})

    def meddle(self) -> None:
        """Make a change that no task makes."""
        self.one((self._state, self._remove, self._lose, self._cut, self._back, self._stranger, self._send))()

    def _there(self) -> list[VM]:
        known = self.inventory.all(VM)
        return [vm for vm in known if vm.state not in ("unknown", "missing", "creating")]

    def _state(self) -> None:
        for vm in self.some(self._there(), 1):
            states = [DomainState.STOPPED, DomainState.RUNNING, DomainState.PAUSED, DomainState.SAVED, DomainState.CRASHED]
            self.host(vm.compute_node).put_state(vm.uuid, self.one(states))

    def _remove(self) -> None:
        for vm in self.some(self._there(), 1):
            self.host(vm.compute_node).remove(vm.uuid)

    def _lose(self) -> None:
        for disk in self.some([disk for disk in self.inventory.all(Disk) if disk.state == "ready"], 1):
            if self.inventory.get(ComputeNode, disk.compute_node).state == "online":
                self.host(disk.compute_node).delete_volume(disk.pool, disk.volume)
                self._refresh(disk.compute_node)

    def _cut(self) -> None:
        for node in self.some([node for node in self.inventory.all(ComputeNode) if node.state == "online"], 1):
            self._down.add(node.name)
            self.host(node.id).cut("It is down.")

    def _back(self) -> None:
        self._down.clear()
        for node in self.inventory.all(ComputeNode):
            if node.state == "offline":
                self._refresh(node.id)

    def _refresh(self, node: int) -> None:
        refreshing: Deferred[None] = Deferred.fromCoroutine(self._server.running.server._nodes.refresh(node))
        now(refreshing.addErrback(lambda failure: failure.trap(Unavailable)), "looking at a node")

    def _stranger(self) -> None:
        for node in self.some([node.id for node in self.inventory.all(ComputeNode) if node.state == "online"], 1):
            host, id = self.host(node), str(uuid.uuid4())
            disks = []
            for place in range(self.one((0, 1))):
                volume = host.create_volume("default", f"{id}.img", 4, self.one(("raw", "qcow2")))
                disks.append(DomainDisk(volume.path, self.one(("raw", "qcow2")), "vd" + "ab"[place]))
            plugs = [DomainInterface(mac, "lan") for mac in self.some(MACS, 1)]
            host.define(DomainSpec(id, self.one(("s", "t")) + id[:4], 1, 2, 64, 128, tuple(disks), interfaces=tuple(plugs)))
            host.put_state(id, self.one((DomainState.STOPPED, DomainState.RUNNING, DomainState.SAVED)))
            self._strangers.append((node, id))

    def _send(self) -> None:
        kind = self.one(("raw", "qcow2", "no image"))
        data = {"raw": bytes(2 * MIB), "qcow2": qcow2(5 * MIB), "no image": b""}[kind]
        try:
            self.upload(self.one((1, 2)), self.one(NAMES), data)
        except xmlrpc.client.Fault as fault:
            assert fault.faultCode in (409, 507), fault

    # Calls.

    def queue(self, cookie: int, method: str, *arguments: Any) -> int:
        """Queue a task. @return: the id of its target."""
        id: int = self._server.call(method, cookie, *arguments)
        declared = METHODS[method]
        if declared.creates:
            self.promised.setdefault(declared.target, []).append(id)
        return id

    def commit(self, cookie: int) -> int:
        """Commit the pending tasks, and let time pass until they are complete. @return: the EC."""
        ec: int = self._server.call("commit_tasks", cookie)
        self.promised.clear()
        for _ in range(100):
            if not any(self.context(ec).states()):
                break
            self._server.running.clock.advance(0.25)
        assert not any(self.context(ec).states()), "a context is stuck"
        return ec

    def context(self, ec: int) -> Any:
        """The engine's context."""
        return self._server.running.server._engine._contexts[ec]
