"""
Rewrites the errors of drivers for users: as whole sentences, with the names that users gave their VMs.

A hypervisor identifies a VM, which it calls a domain or a container, by its UUID and by a name of its own. The errors of its
driver do the same.
"""

from __future__ import annotations

import re

from fluidvm.driver import DriverError
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.faults import sentence
from fluidvm.model.objects import VM

_KIND = r"(?P<kind>\b(?:[Dd]omain|[Cc]ontainer) )?"
_NO_PATH = r"(?<![\w./-])", r"(?![\w/-]|\.\w)"
"""Matches around a name that is not part of a longer word or of a path."""


class Words:
    """
    Rewrites the errors of one compute node's driver.

    @param node: the id of the compute node.
    """

    def __init__(self, inventory: Inventory, node: int) -> None:
        self._inventory = inventory
        self._node = node

    def told(self, error: DriverError) -> DriverError:
        """Return a driver's error as users see it."""
        text = self.names(sentence(str(error)))
        return error if text == str(error) else type(error)(text)

    def names(self, text: str) -> str:
        """Replace the hypervisor's names of VMs by their own."""
        vms = [vm for vm in self._inventory.vms_on(self._node) if vm.uuid in text or vm.domain_name in text]
        known = {called: vm for vm in vms for called in (vm.uuid, vm.domain_name)}
        if not known:
            return text
        longest_first = sorted(known, key=len, reverse=True)
        called = "|".join(re.escape(one) for one in longest_first)
        pattern = f"{_NO_PATH[0]}{_KIND}(?P<quote>['\"]?)(?P<called>{called})(?P=quote){_NO_PATH[1]}"

        def named(found: re.Match[str]) -> str:
            vm = known[found["called"]]
            if found["kind"]:
                return f"VM {vm.name}"
            return f"{found['quote']}{vm.name}{found['quote']}" if _is_unmistakable(vm, found["called"]) else found[0]

        return re.sub(pattern, named, text)


def _is_unmistakable(vm: VM, called: str) -> bool:
    """Tell whether a name can only mean a VM: an adopted guest may be called C{is}, which can also be a plain word."""
    return vm.uuid[:8] in called
