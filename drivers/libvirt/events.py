"""
libvirt's process-wide event loop: without it there are no events and no keep-alive.

It is one thread, started at the first connection and never in C{makeService}, for threads don't outlive the daemon's fork.
"""

from __future__ import annotations

import threading
from typing import Any

import libvirt

TICK = 250
"""Milliseconds between wake-ups of the loop, which has no other way to notice that it shall stop."""

_lock = threading.Lock()
_thread: threading.Thread | None = None


def ensure_loop() -> None:
    """Start the loop, unless it runs. Call it before C{libvirt.open}, in any thread. A repetition does nothing."""
    global _thread
    with _lock:
        if _thread is not None:
            return
        libvirt.virEventRegisterDefaultImpl()
        # Errors come as exceptions; by default libvirt prints each to stderr as well.
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
    # A daemon thread inside C code while the interpreter ends can crash it: this one ends by itself, within a tick.
    while main.is_alive():
        libvirt.virEventRunDefaultImpl()
