"""Private names of other libraries: CONTRIBUTING.md lists every one that the package uses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "redline"
HARMLESS = {"_replace", "_fields", "_asdict", "_exit"}  # public in all but their spelling


def trees() -> Iterator[ast.Module]:
    for path in SOURCE.rglob("*.py"):
        yield ast.parse(path.read_text(encoding="utf-8"))


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[a-z][a-z0-9_]*", name) is not None


def defined_here() -> set[str]:
    """Private names that the package defines: functions, classes, and attributes that it sets on itself."""
    names = set()
    for node in (node for tree in trees() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def used_of_others() -> set[str]:
    """Private attributes read from something that is not the package's own, by dot or by getattr."""
    names = set()
    for node in (node for tree in trees() for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            second = node.args[1]
            if node.func.id in {"getattr", "hasattr", "setattr"} and isinstance(second, ast.Constant):
                names.add(str(second.value))
    return {name for name in names if is_private(name)}


def test_private_names_of_other_libraries_are_listed():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(_\w+)` \|", page, re.MULTILINE))
    used = used_of_others() - defined_here() - HARMLESS
    assert used <= listed, f"not listed in CONTRIBUTING.md: {sorted(used - listed)}"
    everything = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    assert all(name in everything for name in listed), "CONTRIBUTING.md lists a name that nothing uses"
