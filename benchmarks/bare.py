"""
The peer that FluidVM's speed is measured against: twisted.web.xmlrpc with nothing around it.

    bare.py PORT FILE    answers get_vm and list_vms with what the pickle FILE holds
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.web import server, xmlrpc


class Bare(xmlrpc.XMLRPC):  # type: ignore[misc]
    """Two methods, without sessions, checks or a store."""

    def __init__(self, vm: dict[str, Any], vms: list[dict[str, Any]]) -> None:
        super().__init__()
        self._vm = vm
        self._vms = vms

    def xmlrpc_get_vm(self, cookie: int, vm: int) -> dict[str, Any]:
        return self._vm

    def xmlrpc_list_vms(self, cookie: int) -> list[dict[str, Any]]:
        return self._vms


if __name__ == "__main__":
    port, path = sys.argv[1:]
    one, many = pickle.loads(Path(path).read_bytes())
    reactor.listenTCP(int(port), server.Site(Bare(one, many)), interface="127.0.0.1")  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]
