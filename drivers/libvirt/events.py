"""
libvirt's process-wide event loop: without it there are no events and no keep-alive.

It is one thread, started at the first connection and never in C{makeService}, as threads don't survive the daemon's fork.
"""

from __future__ import annotations

import threading
from typing import Any

import libvirt

TICK = 250
"""Milliseconds between wake-ups of the loop, which has no other way to notice that it must stop."""

_lock = threading.Lock()
_thread: threading.Thread | None = None


def ensure_loop() -> None:
    """Start the loop, unless it runs. Call it before C{libvirt.open}, in any thread. A repetition does nothing."""
    global _thread
    with _lock:
        if _thread is not None:
            return
        libvirt.virEventRegisterDefaultImpl()
        # Errors are raised as exceptions; by default libvirt also prints each one to stderr.
        libvirt.registerErrorHandler(_silent, None)
        libvirt.virEventAddTimeout(TICK, _tick, None)
        _thread = threading.Thread(target=_run, name="libvirt events", daemon=True)
        _thread.start()


def _silent(_context: Any, _error: Any) -> None:
    pass


def _tick(_timer: int, _opaque: Any) -> None:
    pass


def _run() -> None:
    main = threading.main_thread()
    # A daemon thread in C code can crash the interpreter while it exits: this one ends by itself, within one wake-up.
    while main.is_alive():
        libvirt.virEventRunDefaultImpl()
