"""Links between our documents lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


def anchors(document: Path) -> set[str]:
    """The headings of a document as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(each.relative_to(ROOT)) for each in DOCUMENTS])
def test_links_lead_somewhere(document):
    for target, anchor in _LINK.findall(document.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        file = document.parent / target if target else document
        assert file.exists(), f"{target} does not exist"
        assert not anchor or anchor[1:] in anchors(file), f"{target} has no heading {anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(each.relative_to(ROOT)) for each in DOCUMENTS])
def test_named_files_exist(document):
    """Paths in backquotes that begin with a folder of ours; those with wildcards and dots are patterns."""
    named = re.findall(r"`((?:engine|src|tests|docs|guests|benches)/[\w/.\-]+)`", document.read_text())
    for path in named:
        assert (ROOT / path).exists(), f"{path} does not exist"
