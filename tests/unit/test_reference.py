from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fluidvm import reference

ROOT = Path(__file__).parents[2]


class ReferenceTests(SynchronousTestCase):
    def test_docs_are_what_the_code_says(self) -> None:
        for name, text in reference.PAGES.items():
            self.assertEqual((ROOT / "docs" / name).read_text(), text(), "run python -m fluidvm.reference docs")

    def test_links_lead_somewhere(self) -> None:
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
            for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
                self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")
