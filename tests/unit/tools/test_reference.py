from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fluidvm.model.declare import METHODS, AfterCrash
from fluidvm.tools import reference

ROOT = Path(__file__).parents[3]


class ReferenceTests(SynchronousTestCase):
    def test_the_generated_pages_match_the_code(self) -> None:
        for name, text in reference.PAGES.items():
            self.assertEqual((ROOT / "docs" / name).read_text(), text(), "run python -m fluidvm.tools.reference docs")

    def test_promises_name_the_tasks_that_are_not_repeated_after_a_crash(self) -> None:
        pages = (ROOT / "docs" / "promises.md").read_text().split("\n\n")
        (told,) = [part for part in pages if part.startswith("**A task that was under way when the server died**")]
        never, _, also = told.partition("they were interrupted.")
        for text, wanted in ((never, AfterCrash.REPORT), (also, AfterCrash.LOOK_AND_REPORT)):
            tasks = [name for name, method in METHODS.items() if method.after_crash is wanted]
            self.assertEqual(set(re.findall(r"`([a-z_]+)`", text)), set(tasks))
        self.assertEqual(re.findall(r"(\w+) tasks are never", never), ["Three"])
        self.assertEqual(sum(method.after_crash is AfterCrash.REPORT for method in METHODS.values()), 3)

    def test_links_lead_somewhere(self) -> None:
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
            for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
                self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")
