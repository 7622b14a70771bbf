"""Which database the tests' servers keep their objects in: the whole run is on SQLite, or on PostgreSQL."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from fluidvm.store.database import connect, parse_url

from .postgres import shared_cluster

ENGINE = os.environ.get("FLUIDVM_TEST_ENGINE", "sqlite")
"""C{sqlite} or C{postgresql}: the environment's say, so that no module of tests can forget the other one."""

if ENGINE not in ("sqlite", "postgresql"):
    raise ValueError(f"FLUIDVM_TEST_ENGINE={ENGINE}: only sqlite and postgresql are supported.")


@contextlib.contextmanager
def new_database(path: Path | None) -> Iterator[str]:
    """
    A database for one test.

    @param path: where SQLite has it; C{None}: in memory.
    @return: enters with its URL. It has the tables, for making them takes longer than many a test; in memory, its first
        user makes them. PostgreSQL's is removed at the end.
    """
    if ENGINE == "sqlite":
        if path is None:
            yield "sqlite://"
            return
        if path.parent.is_dir():  # otherwise the server makes it, and all in it
            path.touch(mode=0o600)
            path.write_bytes(_sqlite_file())
        yield f"sqlite:///{path}"
        return
    cluster = shared_cluster()
    name = cluster.create_database()
    try:
        yield cluster.url(name)
    finally:
        cluster.drop_database(name)


@functools.cache
def _sqlite_file() -> bytes:
    """The file of an SQLite database that has the tables, and nothing in them."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "migrated.db"
        engine, connection = connect(parse_url(f"sqlite:///{path}"))
        connection.close()
        engine.dispose()
        return path.read_bytes()


def execute(url: str, statement: str, **parameters: Any) -> int:
    """Run a statement past the server. Gives how many rows it changed."""
    engine = create_engine(parse_url(url))
    try:
        with engine.begin() as connection:
            return connection.execute(text(statement), parameters).rowcount
    finally:
        engine.dispose()


def only(engine: str) -> str | None:
    """A test's or a class's C{skip}: what is about one engine runs when it is the one."""
    return None if engine == ENGINE else f"about {engine}, and this run is on {ENGINE}"
