"""Snapshots, by the stand-in for vzctl: copies of a ploop container's files and configuration."""

from __future__ import annotations

import os
import shutil
import time

from .host import Fail, Host, is_uuid, unknown

ONLY_PLOOP = "Snapshot feature is only available for ploop-based CTs"
COLUMNS = {
    "uuid": ("UUID", 38),
    "parent_uuid": ("PARENT_UUID", 38),
    "current": ("C", 1),
    "date": ("DATE", 19),
    "name": ("NAME", 32),
    "desc": ("DESC", 32),
    "device": ("DEVICE", 16),
    "target": ("TARGET", 32),
}
Record = list[str]
"""UUID, parent, date, name, description, whether it has memory."""


def read(host: Host, ctid: str) -> tuple[list[Record], str]:
    """All snapshots, and which one the container stands on."""
    lines = host.read("vz/private", ctid, "Snapshots").splitlines()
    return [line.split("\t") for line in lines[1:]], lines[0] if lines else ""


def write(host: Host, ctid: str, records: list[Record], current: str) -> None:
    lines = [current, *("\t".join(record) for record in records)]
    host.write("\n".join(lines), "vz/private", ctid, "Snapshots")


def options(argv: list[str], known: tuple[str, ...], flags: tuple[str, ...]) -> dict[str, str]:
    """Read options. @raise Fail: one isn't known, or an id is no UUID."""
    found: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if word in flags:
            found[word] = ""
        elif word in known:
            found[word] = next(words, "")
        else:
            raise Fail(21, f"vzctl: unrecognized option '{word}'")
    if "--id" in found:
        bare = found["--id"].strip("{}")
        if not is_uuid(bare):
            raise Fail(21, f"Bad parameter for --id: {found['--id']}")
        found["--id"] = bare
    return found


def ploop(host: Host, ctid: str, code: int) -> None:
    if host.layout(host.conf(ctid)) != "ploop":
        raise Fail(code if host.dialect == 4 else 233, ONLY_PLOOP)


def copy(source: str, destination: str) -> None:
    shutil.rmtree(destination, ignore_errors=True)
    shutil.copytree(source, destination, symlinks=True)


def create(host: Host, ctid: str, argv: list[str]) -> None:
    """C{snapshot}."""
    given = options(argv, ("--id", "--name", "--description"), ("--skip-suspend", "--skip-config"))
    ploop(host, ctid, 156)
    if "--id" not in given:
        raise unknown("snapshot without --id")
    uuid = given["--id"]
    records, current = read(host, ctid)
    if any(record[0] == uuid for record in records):
        raise Fail(156, f"Unable to create snapshot: {uuid} exists")
    host.say(f"Creating snapshot {{{uuid}}}")
    host.meet_fault("snapshot-halfway")
    place = host.path("vz/private", ctid, "snapshots", uuid)
    copy(host.path("vz/private", ctid, "fs"), f"{place}/fs")
    host.write(host.conf(ctid).text(), "vz/private", ctid, "snapshots", uuid, "ve.conf")
    memory = "memory" if host.running(ctid) and "--skip-suspend" not in given else ""
    date = time.strftime("%Y-%m-%d %H:%M:%S")
    if memory:
        host.write("", "vz/private", ctid, "dump", f"{{{uuid}}}")
    records.append([uuid, current, date, given.get("--name", ""), given.get("--description", ""), memory])
    write(host, ctid, records, uuid)
    host.say(f"Snapshot {{{uuid}}} has been successfully created")


def _known(host: Host, ctid: str, argv: list[str], flags: tuple[str, ...], code: int) -> tuple[str, Record, dict[str, str]]:
    given = options(argv, ("--id",), flags)
    if "--id" not in given:
        raise Fail(20, "Invalid syntax: snapshot id is missing")
    ploop(host, ctid, code)
    uuid = given["--id"]
    for record in read(host, ctid)[0]:
        if record[0] == uuid:
            return uuid, record, given
    raise Fail(code, f"Unable to find snapshot by uuid {{{uuid}}}")


def switch(host: Host, ctid: str, argv: list[str]) -> None:
    """C{snapshot-switch}: the container is as it was, and runs if the snapshot has memory."""
    uuid, record, given = _known(host, ctid, argv, ("--skip-resume", "--must-resume", "--skip-config"), 159)
    host.say(f"Switching to snapshot {{{uuid}}}")
    host.unmark(ctid, "running", "frozen", "addresses", "mounted")
    place = host.path("vz/private", ctid, "snapshots", uuid)
    copy(f"{place}/fs", host.path("vz/private", ctid, "fs"))
    if "--skip-config" not in given:
        host.write(
            host.read("vz/private", ctid, "snapshots", uuid, "ve.conf"), os.path.relpath(conf_file(host, ctid), host.root)
        )
    records, _ = read(host, ctid)
    write(host, ctid, records, uuid)
    if record[5] and "--skip-resume" not in given:
        host.mark(ctid, "mounted")
        host.mark(ctid, "running", repr(time.time()))
    host.say("Container has been successfully switched to another snapshot")


def conf_file(host: Host, ctid: str) -> str:
    return os.path.realpath(host.conf_path(ctid))


def delete(host: Host, ctid: str, argv: list[str]) -> None:
    """C{snapshot-delete}: its children become its parent's."""
    uuid, record, _ = _known(host, ctid, argv, (), 158)
    host.say(f"Deleting snapshot {{{uuid}}}")
    host.meet_fault("snapshot-delete-halfway")
    records, current = read(host, ctid)
    records = [other for other in records if other[0] != uuid]
    for other in records:
        if other[1] == uuid:
            other[1] = record[1]
    write(host, ctid, records, record[1] if current == uuid else current)
    shutil.rmtree(host.path("vz/private", ctid, "snapshots", uuid))
    host.remove("vz/private", ctid, "dump", f"{{{uuid}}}")
    host.say(f"Snapshot {{{uuid}}} has been successfully deleted")


def listing(host: Host, ctid: str, argv: list[str]) -> None:
    """C{snapshot-list}."""
    given = options(argv, ("-o", "--id"), ("-H",))
    ploop(host, ctid, 167)
    fields = given.get("-o", "parent_uuid,current,uuid,date,name").split(",")
    records, current = read(host, ctid)
    rows = [] if "-H" in given else [[COLUMNS[field][0] for field in fields]]
    for uuid, parent, date, name, description, _ in records:
        values = {
            "uuid": f"{{{uuid}}}",
            "parent_uuid": f"{{{parent}}}" if parent else "",
            "current": "*" if uuid == current else "",
            "date": date,
            "name": name,
            "desc": description,
        }
        if "--id" not in given or uuid == given["--id"]:
            rows.append([values.get(field, "") for field in fields])
    for row in rows:
        padded = [value.ljust(COLUMNS[field][1]) for field, value in zip(fields[:-1], row[:-1], strict=True)]
        host.say(" ".join([*padded, row[-1]]))
