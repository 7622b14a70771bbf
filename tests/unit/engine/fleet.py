"""A small fleet in which anything may be so, and calls of every task method on what there is: for hypothesis to choose."""

from __future__ import annotations

import uuid
import xmlrpc.client
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail

from fluidvm.declare import METHODS
from fluidvm.driver import DomainDisk, DomainInterface, DomainSpec, DomainState, Unreachable
from fluidvm.drivers.simulated_host import SimulatedHost
from fluidvm.drivers.simulator import SimulatorDriver
from fluidvm.faults import Unavailable
from fluidvm.inventory import Inventory
from fluidvm.objects import OBJECT_TYPES, VM, ComputeNode, Disk, Image, Object, ResourcePlan, User
from tests.inline import InlineServer, now
from tests.support import PASSWORD
from tests.unit.api.test_images import qcow2

T = TypeVar("T")
MIB = 2**20
NAMES = ("a", "b", "c", "d")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFluidVM"
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
ACTORS = ("admin", "admin", "admin", "ann", "ann", "bob")
LIMITS = {
    "vms": 3, "running_vms": 1, "vcpus": 6, "memory": 500, "disks": 4, "disk_space": 30, "snapshots": 2, "vm_vcpus": 3,
    "vm_memory": 300, "vm_disk": 20, "default_vcpus": 2, "default_memory": 64, "default_disk": 2, "cpu_shares": 512,
    "disk_iops": 100, "disk_mbps": 10, "network_mbps": 10, "drivers": ["kvm"],
}  # fmt: skip
TASKS = sorted(method.name for method in METHODS.values() if method.task)
CHOICES = [name for name in TASKS for _ in range(3 if METHODS[name].target in ("vm", "disk") else 1)]
"""What hypothesis chooses from: what has to do with hosts more often."""


class Fleet:
    """
    @param server: one that has just been made.
    @param choose: gives a number below another.
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
        """One that there is, or that a task of the same batch will make; or none."""
        known = [thing.id for thing in self.inventory.all(cls)] + self.promised.get(cls.TYPE, [])
        return self.one(sorted(set(known)) or (1,))

    def pair(self, pairs: Sequence[tuple[int, int]], *others: int) -> tuple[int, int]:
        """Two things that go together; or two that needn't."""
        together: list[tuple[int, int]] = [*pairs, *pairs, others]  # type: ignore[list-item]
        return self.one(together)

    def next(self, type_name: str) -> int:
        """What a task of the same batch may give its snapshot or interface."""
        return self.inventory._last_ids.get(type_name, 0) + 1

    # What there is at the beginning.

    def connect(self, original: Any) -> Callable[..., Deferred[Any]]:
        """The simulator's C{connect}, for nodes that may be down."""

        def connect(driver: SimulatorDriver, address: str, options: Any, host: Any) -> Deferred[Any]:
            if host.node in self._down:
                return fail(Unreachable("It is down."))
            done: Deferred[Any] = original(driver, address, options, host)
            return done

        return connect

    def build(self) -> None:
        """Nodes, plans, users, images and what is needed to choose from; the rest comes by batches."""
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
        """Every object as it is now."""
        return [list(self.inventory.all(cls)) for cls in OBJECT_TYPES.values()]

    def host(self, node: int) -> SimulatedHost:
        return SimulatedHost.at(self._server.running.server._settings.state / f"node-{node}", {"vcpus": 1, "memory": 1000})

    def meddle(self) -> None:
        """Something happens that no task does."""
        self.one((
            self._state, self._remove, self._lose, self._cut, self._back, self._stranger, self._send
        ))()  # fmt: skip

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
        """Queue a task. Gives the id that it acts on."""
        id: int = self._server.call(method, cookie, *arguments)
        declared = METHODS[method]
        if declared.creates:
            self.promised.setdefault(declared.target, []).append(id)
        return id

    def commit(self, cookie: int) -> int:
        """Commit what is pending, and have time pass until it is done. Gives the EC."""
        ec: int = self._server.call("commit_tasks", cookie)
        self.promised.clear()
        for _ in range(100):
            if not any(self.context(ec).states()):
                break
            self._server.running.clock.advance(0.25)
        assert not any(self.context(ec).states()), "a context is stuck"
        return ec

    def context(self, ec: int) -> Any:
        """As the engine has it."""
        return self._server.running.server._engine._contexts[ec]

    def random_call(self) -> tuple[Any, ...]:
        """A task method and its arguments."""
        name = self.one(CHOICES)
        arguments: tuple[Any, ...] = getattr(self, f"_{name}")()
        return (name, *arguments)

    def _vm(self) -> tuple[int]:
        return (self.id(VM),)

    _start_vm = _stop_vm = _reboot_vm = _reset_vm = _pause_vm = _resume_vm = _save_vm = _restore_vm = _vm

    def _shutdown_vm(self) -> tuple[Any, ...]:
        return (*self._vm(), self.one((1, 2)))

    def _delete_vm(self) -> tuple[Any, ...]:
        return (*self._vm(), {"keep_disks": self.maybe()})

    def _named_vm(self) -> tuple[Any, ...]:
        return (*self._vm(), self.one(NAMES))

    _set_vm_name = _create_vm_snapshot = _set_vm_hostname = _named_vm

    def _clone_vm(self) -> tuple[Any, ...]:
        return (*self._named_vm(), *self.some(({"force": True},), 1))

    def _set_vm_details(self) -> tuple[Any, ...]:
        return (*self._vm(), {"tags": self.some(NAMES)})

    def _set_vm_autostart(self) -> tuple[Any, ...]:
        return (*self._vm(), self.maybe())

    def _set_vm_boot(self) -> tuple[Any, ...]:
        return (*self._vm(), self.one(({"order": ["network"]}, {"kernel": "/boot/vmlinuz"}, {"kernel": "/open/vmlinuz"})))

    def _set_vm_memory(self) -> tuple[Any, ...]:
        return (*self._vm(), self.one((32, 64, 100, 128, 200, 600)))

    def _set_vm_vcpus(self) -> tuple[Any, ...]:
        return (*self._vm(), self.one((1, 2, 3, 10)))

    def _set_vm_owner(self) -> tuple[Any, ...]:
        return (*self._vm(), self.id(User))

    def _set_vm_limits(self) -> tuple[Any, ...]:
        return (*self._vm(), {"swap": 10})

    def _set_vm_nameservers(self) -> tuple[Any, ...]:
        return (*self._vm(), ["192.0.2.1"])

    def _vm_address(self) -> tuple[Any, ...]:
        # Which addresses guests have is only their hosts' to know: no two get the same one here.
        vm = self.id(VM)
        return (vm, f"192.0.2.{vm % 250 + 1}")

    _add_vm_address = _remove_vm_address = _vm_address

    def _add_vm_ssh_key(self) -> tuple[Any, ...]:
        return (*self._vm(), KEY)

    def _run_in_vm(self) -> tuple[Any, ...]:
        return (*self._vm(), ["true"])

    def _vm_snapshot(self) -> tuple[Any, ...]:
        pairs = [(vm.id, one["id"]) for vm in self.inventory.all(VM) for one in vm.snapshots]
        return self.pair(pairs, self.id(VM), self.next("snapshot"))

    _revert_vm_snapshot = _delete_vm_snapshot = _vm_snapshot

    def _attach_disk(self) -> tuple[Any, ...]:
        pairs = [
            (vm.id, disk.id) for vm in self.inventory.all(VM) for disk in self.inventory.all(Disk)
            if disk.vm is None and (disk.owner, disk.compute_node) == (vm.owner, vm.compute_node)
        ]  # fmt: skip
        return (*self.pair(pairs, self.id(VM), self.id(Disk)), *self.some(({"target": "vda"}, {"target": "vdc"}), 1))

    def _detach_disk(self) -> tuple[Any, ...]:
        pairs = [(disk.vm, disk.id) for disk in self.inventory.all(Disk) if disk.vm is not None]
        return self.pair(pairs, self.id(VM), self.id(Disk))

    def _interface(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"network": self.one(("default", "lan"))}
        return spec | ({"mac": self.one(MACS)} if self.maybe() else {})

    def _attach_interface(self) -> tuple[Any, ...]:
        return (*self._vm(), self._interface())

    def _detach_interface(self) -> tuple[Any, ...]:
        pairs = [(vm.id, one["id"]) for vm in self.inventory.all(VM) for one in vm.interfaces]
        return self.pair(pairs, self.id(VM), self.next("interface"))

    def _rebuild_vm(self) -> tuple[Any, ...]:
        return (*self._vm(), self.id(Image))

    def _migrate_vm(self) -> tuple[Any, ...]:
        return (
            *self._vm(),
            self.id(ComputeNode),
            {"live": self.maybe(), "copy_storage": self.maybe(), "force": self.maybe()},
        )

    def _place(self) -> dict[str, Any]:
        return self.one((
            {}, {"compute_node": self.id(ComputeNode)}, {"compute_node": self.id(ComputeNode)},
        ))  # fmt: skip

    def _new_disk(self) -> dict[str, Any]:
        return self.one((
            {"size": self.one((1, 3, 9))}, {"size": 2, "format": "raw"}, {"image": self.id(Image)},
            {"image": self.id(Image), "size": self.one((1, 6))}, {"disk": self.id(Disk)},
        ))  # fmt: skip

    def _create_vm(self) -> tuple[Any, ...]:
        spec: dict[str, Any] = {"name": self.one(NAMES), **self._place()}
        amounts = ({"memory": 64}, {"memory": 100, "max_memory": 400}, {"vcpus": 2}, {"vcpus": 1, "max_vcpus": 9})
        for more in self.some(amounts, 2):
            spec |= more
        if self.maybe():
            spec["disks"] = [self._new_disk() for _ in range(self.one((1, 2)))]
        if self.maybe():
            spec["interfaces"] = [self._interface()]
        if self.maybe():
            spec["boot"] = self._set_vm_boot()[1]
        if self.maybe():
            spec["template"] = "debian-12"
        if self.maybe():
            spec["owner"] = self.id(User)
        if self._choose(4) == 0:
            spec["force"] = self.maybe()
        if "compute_node" not in spec:
            spec |= self.one(({}, {"labels": ["fast"]}, {"driver": "simulator"}, {"driver": "kvm"}))
        return (spec,)

    def _create_disk(self) -> tuple[Any, ...]:
        disk = self._new_disk()
        spec = {"name": self.one(NAMES), **self._place(), **({"size": 1} if "disk" in disk else disk)}
        return (spec | ({"owner": self.id(User)} if self.maybe() else {}),)

    def _disk(self) -> tuple[int]:
        return (self.id(Disk),)

    _delete_disk = _disk

    def _resize_disk(self) -> tuple[Any, ...]:
        return (*self._disk(), self.one((1, 2, 5, 8, 30)))

    def _named_disk(self) -> tuple[Any, ...]:
        return (*self._disk(), self.one(NAMES))

    _set_disk_name = _create_disk_snapshot = _clone_disk = _create_image = _named_disk

    def _set_disk_owner(self) -> tuple[Any, ...]:
        return (*self._disk(), self.id(User))

    def _disk_snapshot(self) -> tuple[Any, ...]:
        pairs = [(disk.id, one["id"]) for disk in self.inventory.all(Disk) for one in disk.snapshots]
        return self.pair(pairs, self.id(Disk), self.next("snapshot"))

    _revert_disk_snapshot = _delete_disk_snapshot = _disk_snapshot

    def _import_image(self) -> tuple[Any, ...]:
        spec = {"name": self.one(NAMES), "format": self.one(("raw", "qcow2")), "upload": self.one(NAMES)}
        return (spec | ({"owner": self.id(User)} if self.maybe() else {}),)

    def _delete_image(self) -> tuple[Any, ...]:
        return (self.id(Image),)

    def _add_compute_node(self) -> tuple[Any, ...]:
        # What a host is that can be reached is known only when it is there.
        return (self.one(NAMES), "simulator", "", {"fail": ["connect"]})

    def _node(self) -> tuple[int]:
        return (self.id(ComputeNode),)

    _remove_compute_node = _refresh_compute_node = _evacuate_compute_node = _node

    def _set_compute_node(self) -> tuple[Any, ...]:
        options: tuple[dict[str, Any], ...] = (
            {"labels": ["fast"]}, {"labels": []}, {"memory_overcommit": 0.3}, {"memory_overcommit": 1.0}, {"weight": 3.0},
            {"vcpu_overcommit": 4.0}, {"reserved_memory": 600}, {"boot_dirs": ["/open"]}, {"user_networks": ["lan"]},
        )  # fmt: skip
        return (*self._node(), self.one(options))

    def _set_compute_node_mode(self) -> tuple[Any, ...]:
        return (*self._node(), self.one(("active", "cordoned", "maintenance")))

    def _adopt_vm(self) -> tuple[Any, ...]:
        node, id = self.one(self._strangers or [(1, str(uuid.UUID(int=1)))])
        return (self.id(ComputeNode) if self.maybe() else node, id, self.id(User))

    def _create_user(self) -> tuple[Any, ...]:
        return (self.one(NAMES), PASSWORD, {"role": self.one(("admin", "user", "auditor"))})

    def _user(self) -> tuple[int]:
        return (self.id(User),)

    _delete_user = _user

    def _set_user_password(self) -> tuple[Any, ...]:
        return (*self._user(), PASSWORD)

    def _set_user_role(self) -> tuple[Any, ...]:
        return (*self._user(), self.one(("admin", "user", "auditor")))

    def _set_user_resource_plan(self) -> tuple[Any, ...]:
        return (*self._user(), self.one((0, self.id(ResourcePlan))))

    def _set_user_enabled(self) -> tuple[Any, ...]:
        return (*self._user(), self.maybe())

    def _set_user_details(self) -> tuple[Any, ...]:
        return (*self._user(), {"full_name": self.one(NAMES)})

    def _create_resource_plan(self) -> tuple[Any, ...]:
        return (self.one(NAMES), self.limits())

    def _set_resource_plan(self) -> tuple[Any, ...]:
        return (self.id(ResourcePlan), self.limits())

    def _rename_resource_plan(self) -> tuple[Any, ...]:
        return (self.id(ResourcePlan), self.one(NAMES))

    def _delete_resource_plan(self) -> tuple[Any, ...]:
        return (self.id(ResourcePlan),)
