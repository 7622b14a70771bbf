"""The stand-in for vzlist: columns, and JSON whose strings aren't escaped."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase

from .host import MAX, Conf, Fail, Host, run, scaled, unknown
from .kernel import pages

BEANCOUNTERS = (
    "kmemsize",
    "lockedpages",
    "privvmpages",
    "shmpages",
    "numproc",
    "physpages",
    "vmguarpages",
    "oomguarpages",
    "numtcpsock",
    "numflock",
    "numpty",
    "numsiginfo",
    "tcpsndbuf",
    "tcprcvbuf",
    "othersockbuf",
    "dgramrcvbuf",
    "numothersock",
    "dcachesize",
    "numfile",
    "numiptent",
    "swappages",
)
ALL_4 = (
    "ctid",
    "veid",
    "vpsid",
    "private",
    "root",
    "mount_opts",
    "origin_sample",
    "hostname",
    "name",
    "smart_name",
    "description",
    "ostemplate",
    "ip",
    "nameserver",
    "searchdomain",
    "status",
    *BEANCOUNTERS,
    "diskspace",
    "diskinodes",
    "laverage",
    "uptime",
    "cpulimit",
    "cpuunits",
    "cpus",
    "ioprio",
    "iolimit",
    "iopslimit",
    "onboot",
    "bootorder",
    "layout",
    "features",
    "vswap",
    "disabled",
    "vm_overcommit",
    "netfilter",
    "capability",
)
ALL_7 = (
    "ctid",
    "private",
    "root",
    "hostname",
    "name",
    "smart_name",
    "description",
    "ostemplate",
    "distribution",
    "ip",
    "configured_ip",
    "nameserver",
    "searchdomain",
    "status",
    "numproc",
    *BEANCOUNTERS,
    "diskspace",
    "diskinodes",
    "laverage",
    "uptime",
    "cpulimit",
    "cpuunits",
    "cpus",
    "ioprio",
    "iolimit",
    "iopslimit",
    "onboot",
    "bootorder",
    "layout",
    "features",
    "disabled",
)
# Header, width; a negative one is padded on the right.
COLUMNS = {
    "ctid": ("CTID", 10),
    "veid": ("CTID", 10),
    "nproc": ("NPROC", 10),
    "numproc": ("NPROC", 10),
    "status": ("STATUS", -9),
    "ip": ("IP_ADDR", -15),
    "hostname": ("HOSTNAME", -32),
    "smart_name": ("SMARTNAME", 10),
    "name": ("NAME", -32),
    "description": ("DESCRIPTION", -32),
    "onboot": ("ONBOOT", 6),
    "cpulimit": ("CPULIM", 7),
    "cpus": ("CPUS", 5),
    "physpages.l": ("PHYSP.L", 10),
    "ostemplate": ("OSTEMPLATE", -32),
}


class Options:
    """Its command line."""

    def __init__(self, argv: list[str]) -> None:
        self.flags: set[str] = set()
        self.values: dict[str, str] = {}
        self.names: list[str] = []
        words = iter(argv)
        for word in words:
            if word in ("-o", "-s", "-h", "-N", "-d"):
                self.values[word] = next(words, "")
            elif word in ("-L", "-a", "-S", "-n", "-H", "-t", "-j", "-1"):
                self.flags.add(word)
            elif word.startswith("-"):
                raise Fail(1, f"vzlist: invalid option -- '{word.lstrip('-')}'", "Usage: vzlist")
            else:
                self.names.append(word)


def main(host: Host, argv: list[str]) -> int:
    """Run C{vzlist}."""
    host.meet_fault("vzlist")
    options = Options(argv)
    as_json = "-j" in options.flags
    fields = chosen(host, options, as_json)
    ids = [find(host, name) for name in options.names]
    there = [ctid for ctid in (ids or host.confs()) if host.is_there(ctid)]
    if host.settings.get("PROC") == "0" and "-S" not in options.flags:
        host.err("Unable to open /proc/vz/veinfo: No such file or directory")
        there = []
    rows = [record(host, ctid) for ctid in there]
    if not ids and "-a" not in options.flags:
        stopped = "-S" in options.flags
        rows = [row for row in rows if (row["status"] != "running") == stopped]
    known = bool(rows)
    for option, field in (("-h", "hostname"), ("-N", "name"), ("-d", "description")):
        if option in options.values:
            rows = [row for row in rows if fnmatchcase(str(row[field] or ""), options.values[option])]
    order = options.values.get("-s", "ctid")
    if order.lstrip("-") not in ALL_4:
        raise Fail(1, f"Unknown sort field: {order.lstrip('-')}")
    rows.sort(key=lambda row: key_of(row[order.lstrip("-")]), reverse=order.startswith("-"))
    if as_json:
        tell_json(host, fields, rows, known)
    elif not rows:
        host.err("Container(s) not found")
    else:
        tell_text(host, fields, rows, options)
    return 1 if ids and not rows else 0


def key_of(value: object) -> tuple[int, str]:
    return (len(str(value)), str(value))


def find(host: Host, name: str) -> str:
    if name.isdigit() or name.count("-") == 4:
        return name
    ctid = host.named(name)
    if not ctid:
        raise Fail(1, f"CT ID {name} is invalid.")
    return ctid


def chosen(host: Host, options: Options, as_json: bool) -> list[str]:
    known = (*(ALL_7 if host.dialect == 7 else ALL_4), "nproc")
    if "-1" in options.flags:
        return ["ctid"]
    if "-o" not in options.values:
        if as_json:
            return list(known[:-1])
        return ["smart_name" if "-n" in options.flags else "ctid", "nproc", "status", "ip", "hostname"]
    fields = options.values["-o"].split(",")
    for field in fields:
        base, dot, suffix = field.partition(".")
        if base not in known or (dot and (base not in BEANCOUNTERS or suffix not in "bhlmf")):
            raise Fail(1, f"Unknown field: {field}")
        if dot and as_json:
            raise Fail(1, f"Field `{field}' is not available in JSON output")
    return fields


def record(host: Host, ctid: str) -> dict[str, object]:
    """All that is told of a container, as values."""
    conf = host.conf(ctid)
    running = host.running(ctid) and host.on("VEINFO")
    name = conf.get("NAME") or None
    id: object = ctid if host.dialect == 7 else int(ctid)
    told: dict[str, object] = {
        "ctid": id,
        "veid": id,
        "vpsid": id,
        "private": host.shown(host.private(ctid)),
        "root": host.shown(host.path("vz/root", ctid)),
        "mount_opts": None,
        "origin_sample": conf.get("ORIGIN_SAMPLE") or None,
        "hostname": conf.get("HOSTNAME") or None,
        "name": name,
        "smart_name": name or ctid,
        # A backslash is lost when the file is read.
        "description": conf.get("DESCRIPTION").replace("\\", "") or None,
        "ostemplate": conf.get("OSTEMPLATE") or None,
        "distribution": conf.get("OSTEMPLATE").partition("-")[0],
        "configured_ip": conf.get("IP_ADDRESS").split(),
        "ip": live_addresses(host, ctid) if running else bare(conf.get("IP_ADDRESS")),
        "nameserver": conf.get("NAMESERVER").split(),
        "searchdomain": conf.get("SEARCHDOMAIN").split(),
        "status": state(host, ctid, running),
        "diskspace": quota(conf.get("DISKSPACE"), 1024),
        "diskinodes": quota(conf.get("DISKINODES"), 1),
        "laverage": None,
        "uptime": time.time() - float(host.read("run", ctid, "running")) if running and not host.on("ZERO_UPTIME") else 0.0,
        "cpulimit": int(conf.get("CPULIMIT", "0")),
        "cpuunits": int(conf.get("CPUUNITS", "1000")),
        "cpus": int(conf.get("CPUS", "0")),
        "ioprio": int(conf.get("IOPRIO", "0")),
        "iolimit": int(conf.get("IOLIMIT", "0")),
        "iopslimit": int(conf.get("IOPSLIMIT", "0")),
        "onboot": {"yes": True, "no": False, "": False if host.dialect == 7 else None}[conf.get("ONBOOT")],
        "bootorder": int(conf.get("BOOTORDER")) if conf.get("BOOTORDER") else None,
        "layout": host.layout(conf),
        "features": None,
        "vswap": True,
        "disabled": conf.get("DISABLED") == "yes",
        "vm_overcommit": 0,
        "netfilter": conf.get("NETFILTER"),
        "capability": None,
    }
    for counter in BEANCOUNTERS:
        told[counter] = beancounter(host, conf, counter, running)
    told["nproc"] = told["numproc"]["held"] if running else None  # type: ignore[index]
    return told


def state(host: Host, ctid: str, running: bool) -> str:
    if running:
        return "paused" if host.dialect == 7 and host.frozen(ctid) else "running"
    if host.mounted(ctid):
        return "mounted"
    return "suspended" if host.suspended(ctid) else "stopped"


def bare(addresses: str) -> list[str]:
    return [address.partition("/")[0] for address in addresses.split()]


def live_addresses(host: Host, ctid: str) -> list[str]:
    """As the kernel tells them: the last that came first, without masks."""
    return bare(host.read("run", ctid, "addresses"))[::-1]


def beancounter(host: Host, conf: Conf, counter: str, running: bool) -> dict[str, int]:
    barrier = limit = 0
    if conf.has(counter.upper()):
        low, _, high = conf.get(counter.upper()).partition(":")
        barrier, limit = (pages(part) for part in (low, high or low))
    held = {"numproc": int(host.settings.get("NPROC", "7")), "physpages": 4096}.get(counter, 0) if running else 0
    if running and counter == "numproc":
        return {"held": held, "maxheld": 12, "barrier": MAX, "limit": MAX, "failcnt": 0}
    if running and counter == "physpages":
        return {"held": held, "maxheld": 8192, "barrier": barrier, "limit": limit, "failcnt": 3}
    return {"held": 0, "maxheld": 0, "barrier": barrier, "limit": limit, "failcnt": 0}


def quota(value: str, unit: int) -> dict[str, int] | None:
    if not value:
        return None
    soft, _, hard = value.partition(":")
    amounts = [int(scaled(part, unit)) // unit for part in (soft, hard or soft)]
    return {"usage": 0, "softlimit": amounts[0], "hardlimit": amounts[1]}


def tell_json(host: Host, fields: list[str], rows: list[dict[str, object]], known: bool) -> None:
    if not rows and not known:
        host.say("[]")
        return
    objects = []
    for row in rows:
        members = [f'    "{field}": {as_json(row[field])}' for field in fields]
        objects.append("  {\n" + ",\n".join(members) + "\n  }")
    host.say("[\n" + (",\n".join(objects) + "\n" if objects else "") + "]")


def as_json(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(f'"{one}"' for one in value) + "]"
    if isinstance(value, dict):
        members = ",\n".join(f'      "{key}": {one}' for key, one in value.items())
        return "{\n" + members + "\n    }"
    return str(value)


def tell_text(host: Host, fields: list[str], rows: list[dict[str, object]], options: Options) -> None:
    columns = []
    for field in fields:
        if field not in COLUMNS:
            raise unknown(f"-o {field}")
        header, width = COLUMNS[field]
        columns.append((header, 36 if host.dialect == 7 and header == "CTID" else width))
    if not options.flags & {"-H", "-1"}:
        host.say(line([header for header, _ in columns], columns, last_blank=host.dialect == 7))
    for row in rows:
        host.say(line([cell(row, field, "-t" in options.flags) for field in fields], columns))


def cell(row: dict[str, object], field: str, whole: bool) -> str:
    base, _, suffix = field.partition(".")
    value = row[base]
    if isinstance(value, dict):
        value = value[{"l": "limit", "b": "barrier", "h": "held", "m": "maxheld", "f": "failcnt", "": "held"}[suffix]]
    if isinstance(value, list):
        return (",".join(value) if whole else value[0]) if value else "-"
    if value is None or value == "" or (field == "cpus" and value == 0):
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def line(values: list[str], columns: list[tuple[str, int]], last_blank: bool = False) -> str:
    parts = []
    for number, (value, (_, width)) in enumerate(zip(values, columns, strict=True)):
        if width > 0:
            parts.append(value.rjust(width))
        else:
            parts.append(value if number == len(values) - 1 else value.ljust(-width))
    return " ".join(parts) + (" " if last_blank and columns[-1][1] > 0 else "")


def command(root: str, pid: int, argv: list[str]) -> int:
    """Run it on the node in a directory, as the process C{pid}."""
    return run(Host(root, pid), ["vzlist", *argv], main)
