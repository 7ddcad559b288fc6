"""The code on README and on the pages of docs/: its blocks, and the calls of `redline` in them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("", "console", "sh", "bash")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CALL = re.compile(r"^(?:\$ )?(?:\w+=\S* )*redline (?P<rest>.*)")
_EXPLAINED = re.compile(r"\s[|>&]\s|\s#\s|\s{3,}")  # a pipe, a comment, a word beside the command


class Block(NamedTuple):
    """A block of code: its language, empty where the page names none, and its text."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of code on a page, from top to bottom."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, text) for language, text in found]


def calls(block: Block) -> list[list[str]]:
    """The calls of `redline` in a block, each as its arguments."""
    if block.language not in SHELL:
        return []
    lines = re.sub(r"\s*\\\n\s*", " ", block.text).splitlines()
    matches = [_CALL.match(line) for line in lines]
    return [shlex.split(_EXPLAINED.split(match["rest"])[0]) for match in matches if match]
