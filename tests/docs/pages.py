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
_HEREDOC = re.compile(r"^\$ cat > (\S+) <<'END'\n(.*?)^END$", re.MULTILINE | re.DOTALL)
_EXPLAINED = re.compile(r"\s[|>&]\s|\s#\s|\s{3,}")  # a pipe, a comment, a word beside the command


class Call(NamedTuple):
    """A call of `redline` as its arguments, and the lines of output that the page shows below it."""

    arguments: list[str]
    shown: list[str]


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
    return [call.arguments for call in calls_with_output(block)]


def calls_with_output(block: Block) -> list[Call]:
    """The calls of `redline` in a block. Output is shown in blocks of a console, whose commands begin with
    `$`; `...` stands for lines that are left out."""
    if block.language not in SHELL:
        return []
    found: list[Call] = []
    for line in re.sub(r"\s*\\\n\s*", " ", block.text).splitlines():
        if match := _CALL.match(line):
            found.append(Call(shlex.split(_EXPLAINED.split(match["rest"])[0]), []))
        elif found and block.language == "console" and line.strip() not in ("", "..."):
            found[-1].shown.append(line.rstrip())
    return found


def heredocs(page: Path) -> dict[str, str]:
    """The files that a page's shell writes: `cat > NAME <<'END'`."""
    return {name: text for block in blocks(page) for name, text in _HEREDOC.findall(block.text)}
