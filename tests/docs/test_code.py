"""The code on README and on the pages of docs/: every command can be parsed, and every name that Python
imports is there."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from redline.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of code on a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands() -> list[tuple[str, list[str]]]:
    """Every call of `redline` on the pages, as its arguments."""
    found = []
    for page in PAGES:
        for language, text in blocks(page):
            if language not in ("", "console", "sh", "bash"):
                continue
            for line in text.replace("\\\n", " ").splitlines():
                call = re.match(r"^(?:\$ )?(?:\w+=\S* )*redline (?P<rest>.*)", line)
                if call:
                    rest = re.split(r"\s[|>&]\s|\s#\s", call["rest"])[0]
                    found.append((f"{page.name}: redline {rest}", shlex.split(rest)))
    return found


COMMANDS = commands()


@pytest.mark.parametrize(("shown", "arguments"), COMMANDS, ids=[shown for shown, _ in COMMANDS])
def test_a_command_can_be_parsed(shown: str, arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    name, *rest = arguments
    if name.startswith("-"):
        return
    command = group.commands.get(name)  # type: ignore[attr-defined]
    assert command is not None, f"there is no command {name}"
    command.make_context(name, rest)  # raises for an option that is not known, or a value that is missing


def snippets() -> list[tuple[str, str]]:
    """Every block of Python on the pages."""
    return [
        (f"{page.name} {number}", text)
        for page in PAGES
        for number, (language, text) in enumerate(blocks(page), 1)
        if language == "python"
    ]


SNIPPETS = snippets()


@pytest.mark.parametrize(("name", "text"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_what_python_imports_is_there(name: str, text: str) -> None:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "redline":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "redline"
        ):
            assert hasattr(importlib.import_module("redline"), node.attr), f"redline has no {node.attr}"


def test_there_is_code_on_the_pages() -> None:
    assert len(COMMANDS) > 30
    assert len(SNIPPETS) > 8
