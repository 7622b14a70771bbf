"""Which database the tests' servers keep their objects in: the whole run is on SQLite, or on PostgreSQL."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from fluidvm.store.database import parse_url

from .postgres import shared_cluster

ENGINE = os.environ.get("FLUIDVM_TEST_ENGINE", "sqlite")
"""C{sqlite} or C{postgresql}: the environment's say, so that no module of tests can forget the other one."""

if ENGINE not in ("sqlite", "postgresql"):
    raise ValueError(f"FLUIDVM_TEST_ENGINE={ENGINE}: only sqlite and postgresql are supported.")


@contextlib.contextmanager
def new_database(path: Path | None) -> Iterator[str]:
    """
    A database for one test.

    @param path: where SQLite has it, made with its first use; C{None}: in memory.
    @return: enters with its URL; PostgreSQL's has the tables, and is removed at the end.
    """
    if ENGINE == "sqlite":
        yield "sqlite://" if path is None else f"sqlite:///{path}"
        return
    cluster = shared_cluster()
    name = cluster.create_database()
    try:
        yield cluster.url(name)
    finally:
        cluster.drop_database(name)


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
