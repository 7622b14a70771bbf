"""Parsing the output of vzctl and vzlist: recorded output of 4.11.1, and output according to the manuals of OpenVZ 7."""

from __future__ import annotations

import json
import uuid
from itertools import islice
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import AlreadyThere, DriverError, NoSuchThing, Unsupported, WrongState
from fluidvm.drivers.openvz.dialect import (
    Dialect,
    Status,
    explain,
    is_ctid,
    parse_conf,
    parse_grep,
    parse_host,
    parse_list,
    parse_snapshots,
    parse_status,
    parse_templates,
    parse_version,
    split_survey,
)
from fluidvm.drivers.openvz.identity import (
    FIRST_ID,
    LAST_ID,
    Mark,
    check_text,
    foreign_uuid,
    identify,
    is_unfinished,
    new_ids,
    parse_mark,
)
from fluidvm.drivers.openvz.stats import parse_available, parse_cpu

GOLDEN = Path(__file__).parent / "golden"
ONE, TWO = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


def recorded(name: str, command: str) -> str:
    """The output of a command in a recorded session."""
    text = (GOLDEN / f"openvz-{name}.txt").read_text()
    body = text.split(f"$ {command}\n", 1)[1].split("[rc=", 1)[0]
    return "".join(line.removeprefix("  out| ") + "\n" for line in body.splitlines())


class DialectTests(SynchronousTestCase):
    def test_versions(self) -> None:
        self.assertEqual(parse_version(recorded("restart-exec", "vzctl")), Dialect(4, "4.11.1-3.ga3f732ef", False))
        self.assertEqual(parse_version("vzctl version 9.0.1\n"), Dialect(7, "9.0.1", True))
        for text in ("", "vzctl version 3.0.29", "bash: vzctl"):
            self.assertRaises(Unsupported, parse_version, text)

    def test_status(self) -> None:
        for name, command, status in (
            ("lifecycle", "vzctl status 101", Status(True, True, "running")),
            ("names-options", "vzctl status web1", Status(True, False, "down")),
            ("names-options", "vzctl status 102", Status(False, False, "down")),
        ):
            self.assertEqual(parse_status(recorded(name, command)), status)
        self.assertEqual(parse_status("CTID 1 exist unmounted down suspended\n"), Status(True, False, "suspended"))
        self.assertEqual(parse_status(f"noise\nVEID {ONE} exist mounted paused\n"), Status(True, True, "paused"))
        self.assertRaises(DriverError, parse_status, "nothing")

    def test_lists(self) -> None:
        (one,) = parse_list(recorded("lifecycle", "vzlist -a -j"))
        self.assertEqual((one.ctid, one.state, one.memory, one.swap), ("101", "stopped", 256, 512))
        self.assertEqual((one.disk, one.inodes, one.layout, one.onboot), (2048, 131072, "simfs", False))
        self.assertEqual((one.cpus, one.cpuunits, one.ostemplate), (0, 1000, "busybox-1-x86_64"))
        self.assertIsNone(one.used_memory, "0 is told where there is no figure")
        running, stopped = parse_list(told_with_beancounters())
        self.assertEqual((running.used_memory, stopped.used_memory), (16, None))
        for empty in ("", "[]\n", "[\n]\n"):
            self.assertEqual(parse_list(empty), [])
        spoilt = recorded("errors", "vzlist -a -o ctid,status")
        for text in (spoilt, "{}x", '[{"ctid": 1}]', "[1]"):
            self.assertRaises(DriverError, parse_list, text)

    def test_configurations(self) -> None:
        conf = parse_conf(recorded_conf())
        self.assertEqual((conf["DISKSPACE"], conf["NAMESERVER"]), ("3145728:3145728", "192.0.2.53 192.0.2.54"))
        self.assertEqual(conf["VE_ROOT"], "/vz/root/$VEID")
        self.assertEqual(parse_conf('A="say "hi" there"\nA=2\n# B="1"\n'), {"A": "2"})
        grep = f'/c/101.conf:NAME="a"\n/c/0.conf:NAME="b"\n/c/x.conf:NAME="c"\n/c/{ONE}.conf:NAME="d: .conf:"\n'
        self.assertEqual(parse_grep(grep), {"101": {"NAME": "a"}, ONE: {"NAME": "d: .conf:"}})
        self.assertEqual(
            [is_ctid(word) for word in ("1", "0", "01", "", "x", ONE, f"{{{ONE}}}")], [True, *[False] * 4, True, False]
        )

    def test_snapshots(self) -> None:
        row = f"{{{ONE}}} {'':38} * 2014-05-06 07:08:09 {'a  name':32}\n{{{TWO}}} {{{ONE}}}   2014-05-06 07:08:10 \n"
        first, second = parse_snapshots(row)
        self.assertEqual((first.uuid, first.parent, first.current, first.name), (ONE, "", True, "a  name"))
        self.assertEqual((second.parent, second.created, second.name), (ONE, "2014-05-06 07:08:10", ""))
        self.assertEqual(parse_snapshots(""), [])

    def test_a_survey(self) -> None:
        found = '/a/1.conf:NAME="-- 0"\n'
        links = "/etc/vz/conf/1.conf\n/etc/vz/conf/2.conf\n"
        self.assertEqual(split_survey(f"{found}-- 2\n{links}--\n[\n]\n"), (found, {"1", "2"}, "[\n]\n"))
        self.assertEqual(split_survey("-- 1\n--\n[]"), ("", set(), "[]"))
        # Killed, missing, and cut off: incomplete output must not look like missing containers.
        for said in ("/a/1.conf:NAME=", "-- 137\n--\n[]", "-- 127\n--\n[]", "-- 0\n/etc/vz/conf/1.conf\n", ""):
            self.assertRaises(DriverError, split_survey, said)

    def test_the_host(self) -> None:
        self.assertEqual(parse_templates("a-1.tar.gz\nb.tar\nx.txt\nc.tar.xz.part\n"), ["a-1", "b"])
        self.assertEqual(parse_host("cpu  1 2\ncpu0 1 2\ncpu3 1 2\nintr 9\nMemTotal:   2048000 kB\n"), (2, 2000))
        for told in ("cpu0 1 2\n", "cpu  1 2\nMemTotal:   2048000 kB\n"):
            self.assertRaises(DriverError, parse_host, told)
        self.assertEqual(parse_cpu("cpu  10 0 5 80 5 0 0 0 3 0\n"), (15, 100))
        self.assertEqual(parse_available("MemFree: 1024 kB\nBuffers: 1024 kB\nCached: 2048 kB\n"), 4)
        self.assertEqual(parse_available("MemFree: 1024 kB\nMemAvailable: 5120 kB\n"), 5)

    def test_exit_codes_differ_between_the_dialects(self) -> None:
        four, seven = Dialect(4, "4.11", False), Dialect(7, "9.0", True)
        for dialect, code, kind in (
            (four, 131, AlreadyThere),
            (seven, 131, Unsupported),
            (seven, 137, AlreadyThere),
            (four, 137, DriverError),
            (four, 9, WrongState),
            (seven, 14, NoSuchThing),
            (four, 5, Unsupported),
            (four, 62, DriverError),
        ):
            error = explain(dialect, "it", code, "out\n", "\nerr.\n")
            self.assertIs(type(error), kind, (dialect.number, code))
            self.assertIn(str(code), str(error))
        self.assertEqual(str(explain(four, "it", 62, "out\n", "err.\n")), "it: err; out (vzctl's exit code 62).")


def told_with_beancounters() -> str:
    """The recorded memory fields, with the other requested fields added."""
    command = "vzlist -a -j -o ctid,name,status,ip,numproc,physpages,uptime,laverage,cpus,vswap"
    told = json.loads(recorded("names-options", command))
    return json.dumps([one | {"swappages": one["physpages"]} for one in told])


def recorded_conf() -> str:
    """The configuration file that a recorded session shows."""
    text = (GOLDEN / "openvz-set-locks.txt").read_text()
    return text[text.index('PHYSPAGES="0:256M"') : text.index("$ vzlist -a -j -o ctid,name,cpus")]


class IdentityTests(SynchronousTestCase):
    @given(
        st.uuids(),
        st.integers(1, 2**31) | st.uuids(),
        st.integers(1, 999),
        st.integers(1, 2**31),
        st.none() | st.integers(0, 2**70),
        st.text("abc :-", max_size=20).map(str.strip),
        st.booleans(),
    )
    def test_marks_read_back(
        self, id: object, ctid: object, vcpus: int, memory: int, paused: int | None, rest: str, new: bool
    ) -> None:
        mark = Mark(str(id), str(ctid), vcpus, memory, paused, rest, new)
        self.assertEqual(parse_mark(str(mark)), mark)
        self.assertEqual(check_text("it", str(mark)), str(mark), "safe in a file that shells read")

    def test_invalid_marks(self) -> None:
        for text in ("", "web server", "fluidvm:x", f"my fluidvm:{ONE}:1:1:1"):
            self.assertIsNone(parse_mark(text))

    def test_unsafe_text(self) -> None:
        for text in ('"', "\\", "`", "$", "\n", "\0", "\x7f"):
            self.assertRaises(DriverError, check_text, "it", f"a{text}b")

    def test_copies(self) -> None:
        mark = Mark(ONE, "200", 1, 64)
        found = identify("node1", {"100": str(mark), "200": str(mark), "300": ""})
        self.assertEqual(found[ONE], ("200", mark))
        self.assertEqual(set(found), {ONE, foreign_uuid("node1", "100"), foreign_uuid("node1", "300")})
        self.assertEqual(identify("node1", {"100": str(mark)})[ONE], ("100", mark), "moved under another id")
        self.assertNotEqual(foreign_uuid("node1", "100"), foreign_uuid("node2", "100"))
        self.assertEqual(foreign_uuid("node1", TWO), TWO)

    def test_unfinished_containers(self) -> None:
        """It has the link of a name, and its configuration is still that of the sample."""
        sample = {"PHYSPAGES": "0:256M", "CPUUNITS": "1000"}
        self.assertTrue(is_unfinished("101", sample, ["101", "102"]))
        self.assertFalse(is_unfinished("103", sample, ["101", "102"]), "made without a name, perhaps by hand")
        for key in ("NAME", "DESCRIPTION", "OSTEMPLATE", "ORIGIN_SAMPLE", "VE_PRIVATE"):
            self.assertFalse(is_unfinished("101", {**sample, key: "x"}, ["101"]), key)

    @given(st.uuids(), st.integers(0, 5))
    def test_new_ids(self, id: uuid.UUID, skipped: int) -> None:
        first = list(islice(iter(new_ids(str(id), [])), skipped + 1))
        self.assertEqual(len(set(first)), skipped + 1)
        self.assertTrue(all(FIRST_ID <= int(ctid) <= LAST_ID for ctid in first))
        self.assertEqual(next(iter(new_ids(str(id), first[:skipped]))), first[skipped], "the same every time")
