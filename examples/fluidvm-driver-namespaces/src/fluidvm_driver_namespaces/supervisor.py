"""
The supervisor of a guest: boots it, boots it again when it reboots, and ends with it.

Run as C{python -I supervisor.py DIRECTORY UUID TEMPLATE}. It leaves its caller's session at once, so that it outlives the
server. Its standard output is closed when the guest's init runs; before that, errors are written to it.
While it runs it holds a lock on C{DIRECTORY/UUID.lock}, by which a running domain is recognized.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from pathlib import Path


def main() -> int:
    """Supervise until the guest ends."""
    directory, uuid, template = sys.argv[1:]
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    # Python must find the module next to this script, but -I omits the script's directory.
    sys.path.insert(0, str(Path(__file__).parent))
    import guest  # type: ignore[import-not-found]

    lock = os.open(f"{directory}/{uuid}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    report = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    try:
        # A lock of the process, not of the open file: F_GETLK returns its owner, and child processes don't hold it.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.write(report, b"it runs already")
        return 1
    while True:
        domain = json.loads(Path(directory, f"{uuid}.json").read_text())
        status = guest.boot(domain, template, directory, report)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGHUP):
            return 0
        report = os.open(os.devnull, os.O_WRONLY)


if __name__ == "__main__":
    sys.exit(main())
