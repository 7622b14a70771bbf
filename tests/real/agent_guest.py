"""Domains whose guest has QEMU's agent in it."""

from __future__ import annotations

from typing import Any

import libvirt
import libvirt_qemu
from twisted.internet.threads import deferToThread

from fluidvm.driver import Boot, DomainSpec
from fluidvm.drivers.libvirt.errors import AGENT_SILENT
from lab.host import LibvirtHost, guest
from tests.real.real_host import CMDLINE, bootable, until


def obedient(name: str, **changes: Any) -> DomainSpec:
    """A domain that boots the guest with the agent."""
    files = guest()
    boot = Boot(str(files / "vmlinux"), str(files / "initrd-agent.gz"), CMDLINE)
    return bootable(name, **{"boot": boot, **changes})


async def listening(lab: LibvirtHost, uuid: str) -> None:
    """Wait until something answers libvirt in a domain's channel."""
    outside = libvirt.open(lab.uri)
    domain = outside.lookupByUUIDString(uuid)

    def answers() -> bool:
        # Once the channel is open in the guest, libvirt has still to open its own end.
        try:
            libvirt_qemu.qemuAgentCommand(domain, '{"execute":"guest-ping"}', 5, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in AGENT_SILENT:
                raise
            return False
        return True

    try:
        await until("answer of an agent", lambda: deferToThread(answers))
    finally:
        outside.close()
