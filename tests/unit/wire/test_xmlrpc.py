"""Parsing calls: which are accepted, and which are refused with which fault."""

from __future__ import annotations

import xmlrpc.client
from datetime import UTC, datetime
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from fluidvm.model.faults import ApiFault, InvalidRequest, ParseError
from fluidvm.model.xmlvalue import Rendered, render
from fluidvm.wire.xmlrpc import DEEPEST, MOST_VALUES, parse_call, render_answer, render_fault


def call(inside: str) -> bytes:
    """A call with one param, whose value has this inside."""
    params = f"<params><param><value>{inside}</value></param></params>"
    return f"<methodCall><methodName>m</methodName>{params}</methodCall>".encode()


class ParseTests(SynchronousTestCase):
    def value(self, inside: str) -> Any:
        name, arguments = parse_call(call(inside))
        self.assertEqual((name, len(arguments)), ("m", 1))
        return arguments[0]

    def refused(self, body: bytes | str, words: str = "", fault: type[ApiFault] = InvalidRequest) -> None:
        error = self.assertRaises(fault, parse_call, body.encode() if isinstance(body, str) else body)
        self.assertIn(words, error.faultString)
        self.assertTrue(error.faultString.endswith("."))

    def bad(self, inside: str, words: str = "") -> None:
        self.refused(call(inside), words)

    def test_what_the_standard_library_sends(self) -> None:
        moment = datetime(2024, 2, 29, 23, 59, 58)
        arguments: tuple[Any, ...] = (
            -5,
            True,
            False,
            "a<&>\r\n\té ",
            1.5,
            -1e-9,
            moment,
            b"\0\xff",
            [],
            {},
            [1, [2, {"a": [""]}]],
            {"": ""},
        )
        name, found = parse_call(xmlrpc.client.dumps(arguments, "x.y:z/1_").encode())
        self.assertEqual(name, "x.y:z/1_")
        wanted = [moment.replace(tzinfo=UTC) if value is moment else value for value in arguments]
        self.assertEqual([*map(repr, found)], [repr(v).replace("\\r\\n", "\\n") for v in wanted])

    def test_types(self) -> None:
        for inside, wanted in (
            ("<int>5</int>", 5),
            ("<i4>-5</i4>", -5),
            ("<int>+5</int>", 5),
            ("<int>007</int>", 7),
            ("<int>" + "9" * 32 + "</int>", 10**32 - 1),
            ("<boolean>1</boolean>", True),
            ("<boolean>0</boolean>", False),
            ("<string>a b</string>", "a b"),
            ("<string/>", ""),
            ("<string></string>", ""),
            ("<string> </string>", " "),
            ("", ""),
            (" text ", " text "),
            ("\n", "\n"),
            ("a<!-- x -->b<?pi?>c", "abc"),
            ("<![CDATA[<nil/>]]>", "<nil/>"),
            ("&#13;&#x1F600;", "\r\U0001f600"),
            ("<string>a&amp;b</string>", "a&b"),
            ("x" * 100000, "x" * 100000),
            ("<double>1.5</double>", 1.5),
            ("<double>-3</double>", -3.0),
            ("<double>1e3</double>", 1000.0),
            ("<double>.5</double>", 0.5),
            ("<double>5.</double>", 5.0),
            ("<double>-1.5E-3</double>", -0.0015),
            ("<base64>AAH/</base64>", b"\0\1\xff"),
            ("<base64>\n AA\n H/ \n</base64>", b"\0\1\xff"),
            ("<base64></base64>", b""),
            ("<base64>AA==</base64>", b"\0"),
            ("<array><data></data></array>", []),
            ("<array><data/></array>", []),
            ("<struct></struct>", {}),
            ("<struct/>", {}),
            (" <int>5</int>\n", 5),
            ("<array>\n<data>\n<value>a</value> <value/></data></array>", ["a", ""]),
            ("<struct> <member> <name> n </name> <value><i4>1</i4></value> </member> </struct>", {" n ": 1}),
            ("<struct><member><name/><value/></member></struct>", {"": ""}),
        ):
            found = self.value(inside)
            self.assertEqual((type(found), found), (type(wanted), wanted), inside[:80])

    def test_dates_and_times(self) -> None:
        wanted = datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)
        for inside in ("20240229T01:02:03", "20240229T01:02:03Z", "2024-02-29T01:02:03", "2024-02-29T01:02:03Z"):
            found = self.value(f"<dateTime.iso8601>{inside}</dateTime.iso8601>")
            self.assertEqual((found, found.tzinfo), (wanted, UTC))
        for inside in (
            "",
            "20230229T01:02:03",
            "20240229T24:00:00",
            "20240229T01:02:60",
            "20240229",
            "2024-0229T01:02:03",
            "20240229T010203",
            "20240229T01:02:03+02:00",
            "20240229T01:02:03.5",
            " 20240229T01:02:03",
            "00000101T00:00:00",
            "\uff12\uff10240229T01:02:03",
            "20240229t01:02:03",
            "20240229T01:02:03\n",
        ):
            self.bad(f"<dateTime.iso8601>{inside}</dateTime.iso8601>", "dateTime.iso8601")

    def test_malformed_values(self) -> None:
        for kind, values in {
            "int": ("", " 5", "5 ", "5\n", "0x5", "1_000", "5.0", "--5", "5-", "\uff19", "9" * 33, "five"),
            "i4": ("", "True"),
            "boolean": ("", "2", "true", "01", " 1", "-1"),
            "double": ("", "nan", "inf", "-Infinity", "1e999", "1e", ".", "1,5", " 1.5", "0x1p3", "1_0.0", "\u0663"),
        }.items():
            for value in values:
                self.bad(f"<{kind}>{value}</{kind}>", "int" if kind == "i4" else kind)
        self.bad("<double>" + "1" * 401 + "</double>", "double")
        for value in ("A", "AAA", "A===", "AA=A", "AAAA=", "AAAA====", "====", "AA==AA==", "Ä===", "AA-_", "AAH/!"):
            self.bad(f"<base64>{value}</base64>", "base64")

    def test_extensions(self) -> None:
        for kind in ("nil", "i8", "i1", "i2", "float", "ex:nil", "ex:i8", "bigdecimal", "dateTime", "Int"):
            self.bad(f"<{kind}/>", f"{kind} is not a type")

    def test_structure(self) -> None:
        for inside, words in (
            ("<int>1</int><int>2</int>", "<int>"),
            ("<int>1</int>x", "text"),
            ("x<int>1</int>", "text"),
            ("<int><int>1</int></int>", "<int>"),
            ("<string>a<b/>c</string>", "text"),
            ("<value/>", "value is not a type"),
            ("<array/>", "no data"),
            ("<array><data/><data/></array>", "<data>"),
            ("<array><value/></array>", "<value>"),
            ("<array><data>x</data></array>", "text"),
            ("<array><data><int>1</int></data></array>", "<int>"),
            ("<struct><member/></struct>", "no name"),
            ("<struct><member><name>a</name></member></struct>", "no value"),
            ("<struct><member><value/></member></struct>", "<value>"),
            ("<struct>x</struct>", "text"),
            ("<struct><member><name>a</name><name>b</name><value/></member></struct>", "<name>"),
            ("<struct><member><name>a</name><value/><value/></member></struct>", "<value>"),
            (f"<struct>{'<member><name>a</name><value/></member>' * 2}</struct>", "two members"),
            ("<int x='1'>1</int>", "attribute"),
            ("<string>\u00a0</string></value><value>", "<value>"),
            ("<array>\u00a0<data/></array>", "text"),
        ):
            self.bad(inside, words)

    def test_calls(self) -> None:
        for inside, words in (
            ("", "no methodName"),
            ("<methodName/>", "methodName"),
            ("<methodName></methodName>", "methodName"),
            ("<methodName>a b</methodName>", "methodName"),
            ("<methodName> a</methodName>", "methodName"),
            ("<methodName>é</methodName>", "methodName"),
            ("<methodName>" + "a" * 256 + "</methodName>", "methodName"),
            ("<methodName>a\n</methodName>", "methodName"),
            ("<methodName>a-b</methodName>", "methodName"),
            ("<params/>", "<params>"),
            ("<params/><methodName>m</methodName>", "<params>"),
            ("<methodName>m</methodName><methodName>m</methodName>", "<methodName>"),
            ("<methodName>m</methodName><params/><params/>", "<params>"),
            ("<methodName>m</methodName>x", "text"),
            ("<methodName>m</methodName><params>x</params>", "text"),
            ("<methodName>m</methodName><x/>", "<x>"),
            ("<methodName>m</methodName><params><value/></params>", "<value>"),
            ("<methodName>m</methodName><params><param/></params>", "no value"),
            ("<methodName>m</methodName><params><param><value/><value/></param></params>", "<value>"),
        ):
            self.refused(f"<methodCall>{inside}</methodCall>", words)
        for body in ("<methodResponse><params/></methodResponse>", "<html/>", "<methodcall/>", "<value/>"):
            self.refused(body, "not a <methodCall>")
        name = "<methodName>m</methodName>"
        for body in (
            f"<methodCall>{name}</methodCall>",
            f"<methodCall>{name}<params/></methodCall>",
            f"<?xml version='1.0'?>\n <!-- c --><?pi x?><methodCall>\n{name}\n<params> </params> </methodCall>\n",
            f"<methodCall xmlns:ex='urn:x' xmlns='urn:y'>{name}</methodCall>",
            f"\ufeff<methodCall>{name}</methodCall>",
        ):
            self.assertEqual(parse_call(body.encode()), ("m", []))
        self.assertEqual(parse_call(b"<methodCall><methodName>" + b"a" * 255 + b"</methodName></methodCall>")[0], "a" * 255)

    def test_not_well_formed(self) -> None:
        whole = call("<string>x</string>")
        for body in (
            b"",
            b" ",
            b"hello",
            b"<",
            b"<a>",
            b"<methodCall></methodcall>",
            whole + b"x",
            whole + whole,
            b" <?xml version='1.0'?>" + whole,
            call("\0"),
            call("\x1b"),
            call("&#0;"),
            call("&#xD800;"),
            call("&nbsp;"),
            call("<"),
            call("]]>"),
            call("a & b"),
            call("<int a='1' a='2'/>"),
            b"\xff" + whole,
            call("x").replace(b"x", b"\xff"),
            call("x").replace(b"x", b"\xed\xa0\x80"),
            b"<?xml version='1.0' encoding='no-such'?>" + whole,
            b"<?xml version='1.0' encoding='utf-16'?>" + whole,
            b"<?xml version='1.0' encoding='utf-7'?>" + whole,
            b"<?xml version='1.0' encoding='zlib'?>" + whole,
            b"<?xml version='1.0' encoding='idna'?>" + whole,
            b"\x80\x02}q\x00.",
            b'{"method": "m"}',
        ):
            self.refused(body, "well-formed", ParseError)
        for end in range(len(whole)):
            self.refused(whole[:end], "well-formed", ParseError)

    def test_not_well_formed_after_another_error(self) -> None:
        self.refused("<html><p></html>", "well-formed", ParseError)
        self.refused("<methodCall><i8/>", "well-formed", ParseError)

    def test_encodings(self) -> None:
        whole = call("é").decode()
        for encoding in ("utf-8", "utf-16", "iso-8859-1", "windows-1252"):
            body = f"<?xml version='1.0' encoding='{encoding}'?>{whole}".encode(encoding)
            self.assertEqual(parse_call(body), ("m", ["é"]))

    def test_document_types(self) -> None:
        for doctype in (
            "<!DOCTYPE methodCall>",
            "<!DOCTYPE x SYSTEM 'file:///etc/passwd'>",
            "<!DOCTYPE x [<!ENTITY a 'b'>]>",
            "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;&a;&a;'><!ENTITY c '&b;&b;&b;&b;&b;'>]>",
            "<!DOCTYPE x [<!ENTITY % p SYSTEM 'http://127.0.0.1:1/'>%p;]>",
        ):
            self.refused(doctype.encode() + call("&c;"), "document type")

    def test_depth(self) -> None:
        for before, after in (
            ("<array><data><value>", "</value></data></array>"),
            ("<struct><member><name>a</name><value>", "</value></member></struct>"),
        ):
            self.value(before * DEEPEST + after * DEEPEST)
            self.bad(before * (DEEPEST + 1) + after * (DEEPEST + 1), "deeper than")
            self.bad(before * 10000 + after * 10000, "deeper than")
        self.refused(b"<a>" * 100000 + b"</a>" * 100000)

    def test_number_of_values(self) -> None:
        most = MOST_VALUES - 1
        self.assertEqual(len(self.value("<array><data>" + "<value/>" * most + "</data></array>")), most)
        self.bad("<array><data>" + "<value/>" * (most + 1) + "</data></array>", "values")


class RenderTests(SynchronousTestCase):
    def test_answer(self) -> None:
        values: list[Any] = [1, "é<", [], {"a": [True]}]
        for value in values:
            for form in (value, Rendered(render(value))):
                self.assertEqual(xmlrpc.client.loads(render_answer(form))[0][0], value)
        self.assertRaises(TypeError, render_answer, None)
        self.assertRaises(OverflowError, render_answer, 2**31)

    def test_fault(self) -> None:
        fault = self.assertRaises(xmlrpc.client.Fault, xmlrpc.client.loads, render_fault(404, "No VM <5> & \x07."))
        self.assertEqual((fault.faultCode, fault.faultString), (404, "No VM <5> & \ufffd."))
