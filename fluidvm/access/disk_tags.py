"""
Tags that show whether a disk has changed since it was last downloaded.

A tag identifies the content that a disk had when the tag was made. It is dropped as soon as a task claims the disk or its
VM, or the VM runs; the next tag is different. So a client that resumes a download with the same tag gets consistent content.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict

from fluidvm.engine.claims import Claims, Watch
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.objects import VM, Disk
from fluidvm.store.objects import ChangeRow

MOST = 100
"""Maximum number of tags: those of the disks that were downloaded last."""


class DiskTags:
    """
    The tags of all disks.

    @param inventory: reports changes of disks and VMs.
    @param claims: reports which objects tasks claim.
    """

    def __init__(self, inventory: Inventory, claims: Claims) -> None:
        self._inventory = inventory
        self._claims = claims
        self._tags: OrderedDict[int, tuple[str, Watch]] = OrderedDict()
        inventory.listen(self._changed)

    def tag(self, disk: Disk) -> str:
        """
        Return a disk's tag.

        @param disk: the disk. No task must hold it or its VM, and the VM must not be running.
        @return: letters and digits; the same as before if the disk hasn't changed since.
        """
        if disk.id not in self._tags:
            keys = [("disk", disk.id), *([] if disk.vm is None else [("vm", disk.vm)])]
            watch = self._claims.watch(keys, lambda: self._forget(disk.id))
            self._tags[disk.id] = secrets.token_hex(16), watch
            if len(self._tags) > MOST:
                self._forget(next(iter(self._tags)))
        self._tags.move_to_end(disk.id)
        return self._tags[disk.id][0]

    def _forget(self, id: int) -> None:
        found = self._tags.pop(id, None)
        if found is not None:
            found[1].end()

    def _changed(self, rows: list[ChangeRow]) -> None:
        if self._tags and any(row.type in ("vm", "disk") for row in rows):
            for id in list(self._tags):
                if not self._still(id):
                    self._forget(id)

    def _still(self, id: int) -> bool:
        disk = self._inventory.find(Disk, id)
        if disk is None or disk.state != "ready":
            return False
        vm = None if disk.vm is None else self._inventory.find(VM, disk.vm)
        return vm is None or not vm.powered
