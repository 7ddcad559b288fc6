"""The code on README and on the pages of docs/: every command can be parsed, and every name that Python
imports is there. test_pages_run.py runs it."""

import ast
import importlib

import pytest
import typer
from pages import PAGES, blocks, calls

from redline.cli import app

COMMANDS = [
    (f"{page.name}: redline {' '.join(arguments)}", arguments)
    for page in PAGES
    for block in blocks(page)
    for arguments in calls(block)
]
SNIPPETS = [
    (f"{page.name} {number}", block.text)
    for page in PAGES
    for number, block in enumerate(blocks(page), 1)
    if block.language == "python"
]


@pytest.mark.parametrize(("shown", "arguments"), COMMANDS, ids=[shown for shown, _ in COMMANDS])
def test_a_command_can_be_parsed(shown: str, arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    name, *rest = arguments
    if name.startswith("-"):
        return
    command = group.commands.get(name)  # type: ignore[attr-defined]
    assert command is not None, f"there is no command {name}"
    command.make_context(name, rest)  # raises for an option that is not known, or a value that is missing


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
