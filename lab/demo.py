"""
The demo: a real guest under QEMU, controlled over XML-RPC.

    lab/demo.py demo STATE     starts a FluidVM server, boots a guest with it, shows the guest, and removes everything
    lab/demo.py serve STATE    leaves such a server running until Ctrl-C, for interactive use

Starts the server as a user would (twistd) and calls it as any client does (xmlrpc.client).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab.host import LabError, LibvirtHost, guest

CONSOLE_LINES = 25
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(words: str) -> None:
    print(f"== {words}", flush=True)


@contextmanager
def process(command: list[str], log: Path, patience: float = 30) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background; it ends with the block."""
    with log.open("wb") as output:
        # setpriv: the program ends with this process, however that ends.
        running = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(patience)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def wait_for(what: str, running: subprocess.Popen[bytes], log: Path, ready: Any, patience: float = 60) -> None:
    """Wait until a program is ready."""
    deadline = time.monotonic() + patience
    while not ready():
        if running.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{what} doesn't start; its log:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def libvirt_host(stack: ExitStack, directory: Path) -> str:
    """Run a private libvirt host until the stack is closed. @return: its URI."""
    import libvirt

    libvirt.registerErrorHandler(lambda context, error: None, None)
    host = LibvirtHost(directory)
    stack.callback(host.stop)
    try:
        host.start()
    except LabError as error:
        raise SystemExit(f"The libvirt host doesn't start: {error}") from None
    return host.uri


@contextmanager
def server(state: Path, port: int) -> Iterator[xmlrpc.client.ServerProxy]:
    """Run a FluidVM server. @return: a client's proxy for it."""
    state.mkdir(parents=True)
    log = state / "server.log"
    url = f"http://127.0.0.1:{port}/RPC2"
    command = [
        str(Path(sys.executable).with_name("twistd")),
        "--nodaemon",
        "--pidfile=",
        "fluidvm",
        "--state",
        str(state),
        "--http",
        f"tcp:{port}:interface=127.0.0.1",
        "--keepalive",
        "any-call",
    ]
    proxy = xmlrpc.client.ServerProxy(url)

    def answers() -> bool:
        try:
            return bool(proxy.system.listMethods())
        except OSError:
            return False

    with process(command, log) as running:
        wait_for("The server", running, log, answers)
        yield proxy


def log_in(proxy: xmlrpc.client.ServerProxy, state: Path) -> Any:
    return proxy.authenticate("admin", (state / "admin-password").read_text().strip())


def add_node(proxy: Any, cookie: Any, uri: str, runtime: Path) -> Any:
    """Add the libvirt host as a compute node, and wait for it."""
    for name in ("volumes", "consoles"):
        (runtime / name).mkdir()
    options = {"pool_path": f"{runtime}/volumes", "console_log_dir": f"{runtime}/consoles"}
    node = proxy.add_compute_node(cookie, "local", "kvm", uri, options)
    watch(proxy, cookie, proxy.commit_tasks(cookie))
    found = proxy.get_compute_node(cookie, node)
    if found["state"] != "online":
        raise SystemExit(f"The compute node is {found['state']}: {found['reason']}")
    say(f"compute node {found['name']}: {found['vcpus']} CPUs, {found['memory']} MiB, {found['hypervisor_version']}")
    return node


def watch(proxy: Any, cookie: Any, ec: int) -> None:
    """Show the tasks of an execution context while they run. Ends the program if one fails."""
    shown: list[Any] = []
    while True:
        done = proxy.wait_for_tasks(cookie, ec, 0.2)
        now = [proxy.get_task_progress(cookie, ec), proxy.get_status(cookie, ec)]
        if now != shown:
            print(f"   EC {ec}: progress {now[0]} {now[1]}", flush=True)
            shown = now
        if done:
            break
    errors = [error for error in proxy.get_errors(cookie, ec) if error]
    if errors:
        raise SystemExit(f"A task failed: {'; '.join(errors)}")


def follow(console: Path, stop: threading.Event) -> None:
    """Print the first lines of a guest's serial console, and the line which says that it has started."""
    position = printed = 0
    while True:
        last = stop.is_set()
        if console.exists():
            with console.open("rb") as file:
                file.seek(position)
                lines, _, rest = file.read().rpartition(b"\n")
                position = file.tell() - len(rest)
            for line in lines.decode(errors="replace").splitlines():
                if line.strip() and (printed < CONSOLE_LINES or "GUEST-UP" in line):
                    print(f"   | {line.strip()[:150]}", flush=True)
                    printed += 1
                    if printed == CONSOLE_LINES:
                        print("   | ...", flush=True)
        if last:
            return
        time.sleep(0.1)


def demo(state: Path, stack: ExitStack) -> None:
    runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fluidvm-")))
    prepare_guest(state, runtime)
    say("starting a private libvirt host")
    uri = libvirt_host(stack, runtime / "host")
    say("starting the server: twistd fluidvm")
    proxy: Any = stack.enter_context(server(state / "demo", free_port()))
    stack.callback(shutil.rmtree, state / "demo", True)
    cookie = log_in(proxy, state / "demo")
    say("logged in as admin; adding the host as a compute node")
    node = add_node(proxy, cookie, uri, runtime)

    say("one batch: a disk, a VM, the disk attached, the VM started")
    disk = proxy.create_disk(cookie, {"name": "data", "size": 64, "compute_node": node})
    boot = {"kernel": f"{runtime}/guest/vmlinuz", "initrd": f"{runtime}/guest/initrd.gz", "cmdline": "console=ttyS0"}
    vm = proxy.create_vm(cookie, {"name": "demo", "memory": 128, "vcpus": 1, "compute_node": node, "boot": boot})
    proxy.attach_disk(cookie, vm, disk)
    proxy.start_vm(cookie, vm)
    ec = proxy.commit_tasks(cookie)
    watch(proxy, cookie, ec)
    found = proxy.get_vm(cookie, vm)
    say(f"VM {found['name']} is {found['state']}; its serial console:")
    console = runtime / "consoles" / f"{found['uuid']}.log"
    up = threading.Event()
    reader = threading.Thread(target=follow, args=(console, up))
    reader.start()
    deadline = time.monotonic() + 120
    try:
        while b"GUEST-UP" not in (console.read_bytes() if console.exists() else b""):
            if time.monotonic() > deadline:
                raise SystemExit("The guest didn't start within 120 s.")
            time.sleep(0.2)
    finally:
        up.set()
        reader.join()

    say("changes since the login, as reported by ping: " + ", ".join(f"{c['type']} {c['id']}" for c in proxy.ping(cookie)))
    say("shutting down the guest, deleting the VM and the disk")
    proxy.shutdown_vm(cookie, vm)
    proxy.delete_vm(cookie, vm)
    watch(proxy, cookie, proxy.commit_tasks(cookie))
    left = proxy.list_vms(cookie) + proxy.list_disks(cookie) + list((runtime / "volumes").iterdir())
    if left:
        raise SystemExit(f"These objects were not removed: {left}")
    proxy.logout(cookie)
    say("stopping the server and the host")


def serve(state: Path, stack: ExitStack, port: int) -> None:
    runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fluidvm-")))
    prepare_guest(state, runtime)
    uri = libvirt_host(stack, runtime / "host")
    directory = state / "serve"
    shutil.rmtree(directory, ignore_errors=True)
    proxy: Any = stack.enter_context(server(directory, port))
    cookie = log_in(proxy, directory)
    add_node(proxy, cookie, uri, runtime)
    proxy.logout(cookie)
    say(f"the server answers on http://127.0.0.1:{port}/RPC2 until Ctrl-C")
    say(f"user admin, password in {directory}/admin-password")
    say(f"guest to boot: kernel {runtime}/guest/vmlinuz, initrd {runtime}/guest/initrd.gz")
    say(f"serial consoles: {runtime}/consoles/UUID.log; log: {directory}/server.log")
    signal.pause()


def prepare_guest(state: Path, runtime: Path) -> None:
    """Build the guest, and copy it to where the host can read it."""
    say("building the guest (Debian's cloud kernel and busybox), unless it exists")
    try:
        guest(state / "guest")
    except LabError as error:
        raise SystemExit(f"The guest can't be built: {error}") from None
    (runtime / "guest").mkdir()
    for name in ("vmlinuz", "initrd.gz"):
        shutil.copy(state / "guest" / name, runtime / "guest")


def interrupted(number: int, frame: object) -> None:
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)  # the clean-up has begun: once is enough
    raise KeyboardInterrupt


def main() -> None:
    # Also SIGINT: a script's background command starts with it ignored.
    for number in ENDING:
        signal.signal(number, interrupted)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("demo", "serve"))
    parser.add_argument("state", type=Path)
    parser.add_argument("--port", type=int, default=8000, help="port for serve; 0: any free port")
    chosen = parser.parse_args()
    state = chosen.state.absolute()
    shutil.rmtree(state / "demo", ignore_errors=True)
    try:
        with ExitStack() as stack:
            if chosen.what == "demo":
                demo(state, stack)
            else:
                serve(state, stack, chosen.port or free_port())
    except KeyboardInterrupt:
        say("stopped")
    say("done")


if __name__ == "__main__":
    main()
