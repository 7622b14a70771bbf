"""Random calls of every task method on the objects of a fleet."""

from __future__ import annotations

import uuid
from typing import Any

from fluidvm.model.declare import METHODS
from fluidvm.model.objects import VM, ComputeNode, Disk, Image, ResourcePlan, User
from tests.support import PASSWORD
from tests.unit.engine.fleet import MACS, NAMES, Fleet

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFluidVM"
TASKS = sorted(method.name for method in METHODS.values() if method.task)
CHOICES = [name for name in TASKS for _ in range(3 if METHODS[name].target in ("vm", "disk") else 1)]
"""The methods to choose from; those that involve hosts occur more often."""


class RandomCalls(Fleet):
    """A fleet, and calls on it. C{_start_vm} gives the arguments of a C{start_vm}, and so on."""

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
        # Only the hosts know the addresses of guests, so no address is used twice here.
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
            (vm.id, disk.id)
            for vm in self.inventory.all(VM)
            for disk in self.inventory.all(Disk)
            if disk.vm is None and (disk.owner, disk.compute_node) == (vm.owner, vm.compute_node)
        ]
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
        return self.one(({}, {"compute_node": self.id(ComputeNode)}, {"compute_node": self.id(ComputeNode)}))

    def _new_disk(self) -> dict[str, Any]:
        return self.one(
            (
                {"size": self.one((1, 3, 9))},
                {"size": 2, "format": "raw"},
                {"image": self.id(Image)},
                {"image": self.id(Image), "size": self.one((1, 6))},
                {"disk": self.id(Disk)},
            )
        )

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
        # The properties of a reachable host are known only after it was added.
        return (self.one(NAMES), "simulator", "", {"fail": ["connect"]})

    def _node(self) -> tuple[int]:
        return (self.id(ComputeNode),)

    _remove_compute_node = _refresh_compute_node = _evacuate_compute_node = _node

    def _set_compute_node(self) -> tuple[Any, ...]:
        options: tuple[dict[str, Any], ...] = (
            {"labels": ["fast"]},
            {"labels": []},
            {"memory_overcommit": 0.3},
            {"memory_overcommit": 1.0},
            {"weight": 3.0},
            {"vcpu_overcommit": 4.0},
            {"reserved_memory": 600},
            {"boot_dirs": ["/open"]},
            {"user_networks": ["lan"]},
        )
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
