"""
Calls per second: FluidVM beside bare twisted.web.xmlrpc, in one run, with one load generator.

    python benchmarks/wire.py [--seconds S] [--rounds N]

Both answer the same structs; the two servers take turns, and the medians of the rounds are compared. Targets: get_vm at
least 0.9 times the bare server, list_vms of 1,000 at least 8 times.
"""

from __future__ import annotations

import argparse
import pickle
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from load import rate, request

VMS = 1000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve(stack: ExitStack, directory: Path, port: int, *options: str) -> None:
    """Start a FluidVM server that ends with the stack. Its state is in C{directory}."""
    twistd = str(Path(sys.executable).with_name("twistd"))
    where = f"tcp:{port}:interface=127.0.0.1"
    head = [twistd, "--nodaemon", f"--pidfile={directory}/pid", "fluidvm", "--state", f"{directory}/state", "--http", where]
    start(stack, [*head, *options], port, directory / "log")


def start(stack: ExitStack, command: list[str], port: int, log: Path) -> None:
    """Run a server until the stack is left; returns when it answers."""
    running = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    stack.callback(running.wait)
    stack.callback(running.kill)
    for _ in range(300):
        try:
            # The port is open before the server is ready: any answer tells that it is.
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                if connection.recv(1):
                    return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{command[0]} doesn't answer:\n{log.read_text()}")


def fill(proxy: Any, cookie: int) -> int:
    """Make the VMs; gives the id of one."""
    node = proxy.add_compute_node(cookie, "bench", "simulator", "", {"vcpus": 65536, "memory": 2**31 - 1})
    made = 0
    while made < VMS:
        calls = [
            {
                "methodName": "create_vm",
                "params": [cookie, {"name": f"vm{made + place}", "compute_node": node, "tags": ["a"]}],
            }
            for place in range(min(500, VMS - made))
        ]
        answers = proxy.system.multicall(calls)
        ec = proxy.commit_tasks(cookie)
        while not proxy.wait_for_tasks(cookie, ec, 20):
            pass
        errors = [error for error in proxy.get_errors(cookie, ec) if error]
        if errors:
            raise SystemExit(errors[0])
        made += len(calls)
        vm: int = answers[-1][0]
    return vm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours, bare = free_port(), free_port()
        serve(stack, directory, ours, "--keepalive", "any-call", "--session-timeout", "3600")
        proxy: Any = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{ours}/RPC2")
        cookie = proxy.authenticate("admin", (directory / "state/admin-password").read_text().strip())
        vm = fill(proxy, cookie)
        one, many = proxy.get_vm(cookie, vm), proxy.list_vms(cookie)
        (directory / "answers").write_bytes(pickle.dumps((one, many)))
        start(
            stack,
            [sys.executable, str(Path(__file__).with_name("bare.py")), str(bare), f"{directory}/answers"],
            bare,
            directory / "bare.log",
        )
        calls = {
            "get_vm": request(xmlrpc.client.dumps((cookie, vm), "get_vm")),
            f"list_vms of {len(many)}": request(xmlrpc.client.dumps((cookie,), "list_vms")),
        }
        print(f"{'calls per second':24} {'FluidVM':>10} {'bare':>10} {'ratio':>8}")
        for name, call in calls.items():
            rates: dict[int, list[float]] = {ours: [], bare: []}
            for _ in range(chosen.rounds):
                for port in (ours, bare):
                    rates[port].append(rate(port, call, chosen.seconds))
            fluid, plain = (statistics.median(rates[port]) for port in (ours, bare))
            print(f"{name:24} {fluid:10.0f} {plain:10.0f} {fluid / plain:8.2f}")


if __name__ == "__main__":
    main()
