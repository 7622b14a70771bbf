"""
What a client feels of an attack: the median time of get_vm, idle and under a thousand wrong logins a second.

    python benchmarks/attack.py [--seconds N] [--rate N]

A client at 127.0.0.1 calls get_vm one after the other; then the same while another process at 127.0.0.2 tries passwords for
the users' names at the rate. Target: the median at most doubles.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from wire import free_port, serve

CONNECTIONS = 200


def attack(port: int, rate: int, seconds: float) -> None:
    """Try passwords at a rate; prints how many were tried, and the codes of the answers."""
    bodies = [xmlrpc.client.dumps((f"user{number}", "wrong"), "authenticate").encode() for number in range(50)]
    sockets = []
    for _ in range(CONNECTIONS):
        sockets.append(socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)))
        sockets[-1].setblocking(False)
    tried = answered = 0
    began = time.perf_counter()
    while (now := time.perf_counter() - began) < seconds:
        while tried < rate * now:
            body = bodies[tried % len(bodies)]
            head = f"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            sockets[tried % CONNECTIONS].sendall(head + body)
            tried += 1
        for one in sockets:
            with suppress(BlockingIOError):
                answered += one.recv(2**20).count(b"<methodResponse>")
        time.sleep(0.001)
    print(tried, answered)


def median(port: int, body: bytes, seconds: float) -> float:
    """Call one after the other; gives the median in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        connection.request("POST", "/RPC2", body)
        answer = connection.getresponse().read()
        times.append(time.perf_counter() - began)
        if b"<fault>" in answer:
            raise SystemExit(answer.decode())
        time.sleep(0.002)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--attack", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.attack is not None:
        attack(chosen.attack, chosen.rate, chosen.seconds)
        return
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        serve(stack, directory, port, "--keepalive", "any-call")
        proxy: Any = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2")
        cookie = proxy.authenticate("admin", (directory / "state/admin-password").read_text().strip())
        node = proxy.add_compute_node(cookie, "bench", "simulator", "", {})
        vm = proxy.create_vm(cookie, {"name": "vm", "compute_node": node})
        proxy.wait_for_tasks(cookie, proxy.commit_tasks(cookie), 20)
        body = xmlrpc.client.dumps((cookie, vm), "get_vm").encode()
        median(port, body, 1)
        idle = median(port, body, chosen.seconds)
        command = [sys.executable, __file__, "--attack", str(port), "--rate", str(chosen.rate)]
        command += ["--seconds", str(chosen.seconds + 1)]
        attacker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        attacked = median(port, body, chosen.seconds)
        tried, answered = attacker.communicate()[0].split()
        print(f"{'median of get_vm, ms':24} {'idle':>8} {'attacked':>10} {'ratio':>8}")
        print(f"{f'{chosen.rate} wrong logins/s':24} {idle:8.2f} {attacked:10.2f} {attacked / idle:8.2f}")
        print(f"{tried} tried, {answered} answered")


if __name__ == "__main__":
    main()
