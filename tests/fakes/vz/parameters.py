"""Options of C{set} and C{create}, and C{set} itself, by the stand-in for vzctl."""

from __future__ import annotations

import math

from . import guest, kernel
from .create import link_name
from .host import MAX, Conf, Fail, Host, scaled, unknown

FLAGS = ("--save", "--force", "--offline-resize")
CREATE = (
    "--ostemplate",
    "--config",
    "--layout",
    "--diskspace",
    "--diskinodes",
    "--private",
    "--root",
    "--ipadd",
    "--hostname",
    "--name",
    "--description",
    "--local_uid",
    "--local_gid",
)
CREATE_7 = ("--uuid", "--no-hdd", "--force")
SET = (
    "--ram",
    "--memory",
    "--swap",
    "--cpus",
    "--cpulimit",
    "--cpuunits",
    "--diskspace",
    "--diskinodes",
    "--ipadd",
    "--ipdel",
    "--hostname",
    "--nameserver",
    "--searchdomain",
    "--userpasswd",
    "--onboot",
    "--bootorder",
    "--disabled",
    "--name",
    "--description",
    "--stop-timeout",
    "--netif_add",
    "--netif_del",
    "--ioprio",
    "--iolimit",
    "--iopslimit",
    "--features",
    "--applyconfig",
    "--setmode",
    "--physpages",
    "--swappages",
)
NOT_MODELLED = ("--private", "--root", "--local_uid", "--local_gid", "--uuid", "--no-hdd")
LISTS = ("--ipadd", "--nameserver", "--searchdomain")
NOT_SAVED = "Error: failed to apply some parameters, not saving configuration file!"
NAME_CHARS = " -+_."


def parse(host: Host, verb: str, argv: list[str]) -> dict[str, str]:
    """
    Read options, with lists joined by blanks. Checks values as the real parser does.

    @raise Fail: as getopt or a value's check ends it.
    """
    known = (*CREATE, *(CREATE_7 if host.dialect == 7 else ())) if verb == "create" else SET
    options: dict[str, str] = {}
    words = iter(argv)
    stray = []
    for word in words:
        if not word.startswith("--"):
            stray.append(word)
            continue
        if word not in known and not (verb == "set" and word in FLAGS):
            raise Fail(21, f"vzctl: unrecognized option '{word}'")
        if word in NOT_MODELLED:
            raise unknown(word)
        if word in FLAGS:
            options[word] = ""
            continue
        value = next(words, None)
        if value is None:
            raise Fail(21, f"vzctl: option '{word}' requires an argument")
        if word == "--memory":
            word = "--ram"
        if not (word in ("--ram", "--swap") and "--force" in options):
            check(host, word, value)
        if word == "--ipadd" and verb == "create" and not address(value):
            raise Fail(21, f"Bad parameter for {word}: {value}")
        options[word] = f"{options[word]} {value}" if word in LISTS and word in options else value
    if stray:
        raise Fail(20, f"Invalid extra arguments: {' '.join(stray)}")
    return options


def address(value: str) -> bool:
    """Whether this is an address, with or without a mask."""
    host, slash, mask = value.partition("/")
    if slash and not mask.isdigit():
        return False
    if ":" in host:
        return all(c in "0123456789abcdef:" for c in host.lower())
    parts = host.split(".")
    return len(parts) == 4 and all(part.isdigit() and int(part) < 256 for part in parts)


def check(host: Host, option: str, value: str) -> None:
    """@raise Fail: the option can't have this value."""
    if option in ("--ram", "--swap") and not host.on("VSWAP") and host.dialect == 4:
        what = "Error: kernel does not support vswap, unable to use --ram/--swap parameters"
        raise Fail(3, what, "Error parsing options")
    good = True
    if option in ("--ram", "--swap", "--iolimit"):
        good = value == "unlimited" or number(value) is not None
    elif option in ("--physpages", "--swappages"):
        good = all(part == "unlimited" or number(part) is not None for part in value.split(":"))
    elif option in ("--onboot", "--disabled"):
        good = value in ("yes", "no")
    elif option == "--cpuunits":
        good = value.isdigit() and 8 <= int(value) <= 500000
    elif option == "--cpulimit":
        good = value.removesuffix("%").isdigit() and (not value.endswith("%") or int(value[:-1]) <= 100)
    elif option in ("--cpus", "--bootorder", "--stop-timeout", "--iopslimit"):
        good = value.isdigit()
    elif option == "--ioprio":
        good = value in "01234567" and len(value) == 1
    elif option in ("--diskspace", "--diskinodes"):
        good = all(number(part) is not None for part in value.split(":"))
    elif option == "--ipadd":
        good = address(value)
    elif option == "--ipdel":
        good = value == "all" or address(value)
    elif option == "--name":
        good = all(c.isalnum() or c in NAME_CHARS for c in value)
    elif option == "--userpasswd":
        good = ":" in value
    elif option == "--setmode":
        good = value in ("restart", "ignore")
    elif option == "--layout":
        good = value.partition(":")[0] in ("simfs", "ploop", "5")
    if not good:
        raise Fail(21, f"Bad parameter for {option}: {value}")


def number(value: str) -> float | None:
    try:
        return scaled(value, 1)
    except ValueError:
        return None


def pages(value: str) -> int:
    """An amount of memory as it is stored."""
    return MAX // 4096 + 1 if value == "unlimited" else math.ceil(scaled(value, 1) / 4096)


def stored(host: Host, conf: Conf, option: str, value: str) -> tuple[str, str] | None:
    """What an option makes of the configuration: key and value; C{None}: nothing."""
    key = option[2:].upper().replace("-", "_")
    if option == "--ram":
        return "PHYSPAGES", f"0:{pages(value)}"
    if option == "--swap":
        return "SWAPPAGES", f"0:{pages(value)}" if pages(value) else "0"
    if option in ("--physpages", "--swappages"):
        barrier, _, limit = value.partition(":")
        low, high = (kernel.pages(part) for part in (barrier, limit or barrier))
        return key, str(low) if low == high else f"{low}:{high}"
    if option == "--cpulimit" and value.endswith("%"):
        return key, str(int(value[:-1]) * int(host.settings.get("CPUS", "2")))
    if option in ("--diskspace", "--diskinodes"):
        unit = 1024 if option == "--diskspace" else 1
        amounts = [str(int(scaled(part, unit)) // unit) for part in value.split(":")]
        return key, ":".join(amounts if len(amounts) == 2 else amounts * 2)
    if option in ("--ipadd", "--ipdel"):
        return "IP_ADDRESS", ""  # made by L{addresses}
    if option == "--iolimit":
        return key, str(int(scaled(value, 1 << 20)))
    if option == "--netif_add":
        return "NETIF", interface(conf, value)
    if option == "--netif_del":
        entries = [
            entry for entry in conf.get("NETIF").split(";") if value != "all" and f"ifname={value}," not in f"{entry},"
        ]
        return "NETIF", ";".join(entries)
    if option in ("--userpasswd", "--setmode", "--applyconfig", *FLAGS):
        return None
    return key, value


def interface(conf: Conf, value: str) -> str:
    """Another entry of NETIF."""
    name, mac, host_name, host_mac, bridge = (value.split(",") + [""] * 5)[:5]
    entry = f"ifname={name}" + (f",bridge={bridge}" if bridge else "")
    entry += (
        f",mac={mac or '00:18:51:99:C8:4B'},host_ifname={host_name or 'veth.0'},host_mac={host_mac or '00:18:51:EE:38:8C'}"
    )
    there = conf.get("NETIF")
    return f"{there};{entry}" if there else entry


def addresses(conf: Conf, options: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
    """Addresses after C{--ipdel} and C{--ipadd}; and those that were taken away and put there."""
    there = conf.get("IP_ADDRESS").split()
    bare = {one.partition("/")[0] for one in options.get("--ipdel", "").split()}
    gone = there if options.get("--ipdel") == "all" else [one for one in there if one.partition("/")[0] in bare]
    left = [one for one in there if one not in gone]
    have = {one.partition("/")[0] for one in left}
    come: list[str] = []
    for one in options.get("--ipadd", "").split():
        if one.partition("/")[0] not in have:
            have.add(one.partition("/")[0])
            come.append(one)
    return left + come, gone, come


def set_parameters(host: Host, ctid: str, options: dict[str, str]) -> int:
    """C{vzctl set}."""
    saving = "--save" in options
    running = host.running(ctid)
    if not host.has_conf(ctid):
        if not saving:
            raise Fail(31, "Unable to apply UBC parameters: container is not running")
        host.err(f"WARNING: {host.shown(host.conf_path(ctid))} not found: No such file or directory")
    if "--userpasswd" in options:
        return password(host, ctid, options["--userpasswd"])
    if "--offline-resize" in options and "--diskspace" not in options:
        raise Fail(20, "Error: option --offline-resize can only be used with --diskspace", NOT_SAVED)
    if "--name" in options and not saving:
        raise Fail(137 if host.dialect == 7 else 131, "Error: unable to use --name option without --save")
    if not running and not saving:
        raise Fail(31, "Unable to apply UBC parameters: container is not running")
    conf = host.conf(ctid)
    fault = apply(host, ctid, conf, options, running)
    if fault is not None and host.dialect == 4:
        raise Fail(fault.code, *fault.lines, NOT_SAVED)
    if saving:
        save(host, ctid, conf, options)
    else:
        host.say("WARNING: Settings were not saved and will be resetted to original values on next start (use --save flag)")
    if fault is not None:
        raise fault
    return 0


def apply(host: Host, ctid: str, conf: Conf, options: dict[str, str], running: bool) -> Fail | None:
    """Do what a running container has at once. @return: what went wrong."""
    if "--applyconfig" in options:
        sample = host.path("etc/vz/conf", f"ve-{options['--applyconfig']}.conf-sample")
        if not host.exists("etc/vz/conf", f"ve-{options['--applyconfig']}.conf-sample"):
            return Fail(109, f"Sample config file not found: {host.shown(sample)}")
        raise unknown("--applyconfig")
    name = options.get("--name", "")
    taken = host.named(name)
    if name and taken and taken != ctid:
        return Fail(137 if host.dialect == 7 else 131, f"Conflict: name {name} already used by container {taken}")
    if "--name" in options:
        host.say(f"Name {name} assigned")
    if not running:
        return None
    if "--features" in options:
        if options.get("--setmode") == "restart":
            from . import vzctl

            vzctl.restart(host, ctid, [])
            return None
        host.err("Error: unable to change features while the container is running", "Please consider using --setmode option")
        return None
    host.say("UB limits were set successfully")
    if "--diskspace" in options and host.on("VZQUOTA"):
        return Fail(62, "File /usr/sbin/vzquota not found", "Error: Unable to apply new quota values: quota not running")
    host.meet_fault("set-live")
    if host.on("UPSTREAM") and ("--iolimit" in options or "--iopslimit" in options):
        return Fail(*kernel.NO_RATES)
    for option in ("--ram", "--physpages"):
        if option in options:
            entry = stored(host, conf, option, options[option])
            kernel.bound_memory(host, ctid, entry[1] if entry else "")
    if "--cpulimit" in options:
        host.say(f"Setting CPU limit: {options['--cpulimit']}")
    left, gone, come = addresses(conf, options)
    if gone:
        host.say(f"Deleting IP address(es): {' '.join(gone)}")
    if host.settings.get("IP_IN_USE") in come:
        return Fail(78, f"Unable to add IP {host.settings['IP_IN_USE']}: Address already in use")
    if come:
        host.say(f"Adding IP address(es): {' '.join(come)}")
    host.mark(ctid, "addresses", " ".join(left))
    if "--netif_add" in options:
        host.say(f"Configure veth devices: veth{ctid}.0 ")
    return None


def save(host: Host, ctid: str, conf: Conf, options: dict[str, str]) -> None:
    left, _, _ = addresses(conf, options)
    name, was = options.get("--name"), conf.get("NAME")
    for option, value in options.items():
        entry = stored(host, conf, option, value)
        if entry is not None:
            conf.set(entry[0], " ".join(left) if entry[0] == "IP_ADDRESS" else entry[1])
    if name is not None:
        if was and host.named(was) == ctid:
            host.remove("etc/vz/names", was)
        if name:
            link_name(host, ctid, name)
    host.save(ctid, conf)
    if host.dialect == 7:
        host.say(f"Saved parameters for Container {ctid}")
    else:
        host.say(f"CT configuration saved to {host.shown(host.conf_path(ctid))}")


def password(host: Host, ctid: str, given: str) -> int:
    """C{--userpasswd}, which starts what doesn't run."""
    from . import vzctl

    was_running = host.running(ctid)
    if not was_running and host.dialect == 4:
        vzctl.start(host, ctid, [])
    elif not was_running:
        raise unknown("--userpasswd on a stopped container")
    done = guest.shell(host, ctid, f"echo '{given}' | chpasswd")
    if done:
        host.err("Password change failed")
    if not was_running:
        vzctl.stop(host, ctid, ["--fast"])
    return 74 if done else 0
