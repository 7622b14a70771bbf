"""URLs for images: no URL escapes from the allowed prefixes."""

from __future__ import annotations

from urllib.parse import quote, unquote, urljoin

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.images.urls import ImageUrls
from fluidvm.model.faults import Forbidden

BASE = "http://images.example:8080/pub/"
PIECES = ["..", ".", "%2e", "%2E%2e", "%252e%252e", "/", "%2f", "%252F", "\\", "%5c", ";", "secret", "a", "?", "#", "@"]


class ImageUrlsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.urls = ImageUrls([BASE, "https://other.example/", "http://[2001:db8::1]/x/"])

    def test_allowed(self) -> None:
        for url, asked in (
            (BASE + "debian.qcow2", BASE + "debian.qcow2"),
            (BASE, BASE),
            ("HTTP://Images.Example:8080/pub/A", BASE + "A"),
            (BASE + "a?token=../x#part", BASE + "a?token=../x"),
            (BASE + "a%20b/c..d/...", BASE + "a%20b/c..d/..."),
            ("https://other.example", "https://other.example/"),
            ("https://other.example:443/a", "https://other.example/a"),
            ("http://[2001:DB8::1]/x/y", "http://[2001:db8::1]/x/y"),
        ):
            self.assertEqual(self.urls.admit(url), asked)

    def test_refused(self) -> None:
        for url in (
            BASE + "../secret",
            BASE + "%2e%2e/secret",
            BASE + ".%2E/secret",
            BASE + "%252e%252e/secret",
            BASE + "%25252e%25252e/secret",
            BASE + "..%2fsecret",
            BASE + "%2e%2e%2fsecret",
            BASE + "..\\secret",
            BASE + "..%5csecret",
            BASE + "a/../../secret",
            BASE + "..;/secret",
            BASE + "..;x=1/secret",
            BASE + "..",
            BASE + "./x",
            BASE + "a%00b",
            BASE + "a%0d%0ab",
            BASE + "a b",
            BASE + "a\tb",
            BASE + "\u00e4",
            "http://images.example/pub/x",
            "http://images.example:80/pub/x",
            "https://images.example:8080/pub/x",
            "http://user@images.example:8080/pub/x",
            "http://images.example:8080@evil.example/pub/x",
            "http://images.example:8080\\@evil.example/pub/x",
            "http://evil.example/pub/x",
            "http:/images.example:8080/pub/x",
            "http://images.example.:8080/pub/x",
            "http://images.example:8080.evil.example/pub/x",
            "http://images%2eexample:8080/pub/x",
            "http://images.example:8080/pub",
            "http://images.example:8080//pub/x",
            "http://images.example:808080/pub/x",
            "//images.example:8080/pub/x",
            "file:///pub/x",
            "",
            BASE + "%" + "25" * 900 + "2e",
            BASE + "a" * 2000,
            "https://other.example.evil/",
            "https://other.example@evil/",
            "http://\u0131mages.example:8080/pub/x",
        ):
            self.assertRaises(Forbidden, self.urls.admit, url)

    def test_redirects(self) -> None:
        url = BASE + "a/b"
        for location, asked in (("c", BASE + "a/c"), ("../c", BASE + "c"), ("/pub/c", BASE + "c"), (BASE + "c", BASE + "c")):
            self.assertEqual(self.urls.follow(url, location), asked)
        for location in (
            "../../c",
            "/c",
            "//evil.example/pub/c",
            "%2e%2e/%2e%2e/c",
            "\\\\evil.example/",
            "http://[",
            "https:c",
            "http://images.example:81/pub/c",
        ):
            self.assertRaises(Forbidden, self.urls.follow, url, location)

    def test_invalid_prefixes(self) -> None:
        for url in ("", "http://", "http://h/../", "http://u@h/", "ftp://h/", "http://h/%2e%2e/"):
            self.assertRaises(ValueError, ImageUrls, [url])

    @settings(deadline=None)  # the machine may be busy
    @given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8))
    def test_no_url_escapes_from_the_prefix(self, pieces: list[str]) -> None:
        """However a server decodes and resolves the path, it stays below the allowed prefix."""
        try:
            asked = self.urls.admit(BASE + "".join(pieces))
        except Forbidden:
            return
        for _ in range(4):
            path = asked.partition("?")[0].replace("\\", "/")
            self.assertTrue(urljoin(BASE, path).startswith(BASE), asked)
            asked = quote(unquote(path), safe="/:%;")
