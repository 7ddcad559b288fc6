"""The pages may be followed one after the other in one folder: what one page's code writes, no other page's
code writes."""

import re
from collections import defaultdict
from itertools import pairwise

from pages import PAGES, blocks, calls, heredocs

WRITES = ("--out", "--picture", "--db", "--cache")
# what several pages write on purpose: the run of the reader's own recipe, which the
# pages on its stages train
SHARED = {"runs/mine"}
PYTHON_WRITES = re.compile(r"(?:edit_pairs|label_file|import_log|write_jsonl)\((.*?)\n?\)\n", re.DOTALL)


def written_by(page_name: str) -> set[str]:
    """The files and folders that the code on a page writes."""
    (page,) = [page for page in PAGES if page.name == page_name]
    names = set(heredocs(page))
    for block in blocks(page):
        for arguments in calls(block):
            names |= {
                value.removeprefix("sqlite:///") for option, value in pairwise(arguments) if option in WRITES
            }
        if block.language == "python":
            for call in PYTHON_WRITES.findall(block.text):
                files = re.findall(r'(?<!path=)"([\w/-]+\.jsonl)"', call)
                names |= set(files)
    return names


def test_no_two_pages_write_the_same_file() -> None:
    pages = defaultdict(list)
    for page in PAGES:
        for name in written_by(page.name):
            pages[name].append(page.name)
    assert len(pages) > 15
    assert {name: of for name, of in pages.items() if len(of) > 1 and name not in SHARED} == {}


def test_what_is_written_is_found() -> None:
    guide = {
        "questions.jsonl",
        "machine-edits.jsonl",
        "machine-edits.svg",
        "questions.db",
        "human-labels.jsonl",
    }
    assert guide < written_by("from-preference-data-to-edits.md")
    assert "labels.jsonl" in written_by("labels.md")
    assert "edits.jsonl" in written_by("edit.md")
