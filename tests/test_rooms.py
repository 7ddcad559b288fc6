"""The rooms of the house: who may import whom. CONTRIBUTING.md says it in words."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "redline"
ROOMS = [
    "data", "edit", "annotate", "label", "engine", "reward", "sampling", "policy", "direct", "judge", "run",
    "experiment", "plan", "report", "integrations",
]  # fmt: skip
# they import no room
BELOW_ALL = {"errors", "console", "functions", "section", "urls", "hub", "embedded", "types"}
KNOW_ALL = {"cli", "run", "experiment"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, without the package's own."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """The modules of the package that a module imports, inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "redline":
            place = node.module.removeprefix("redline").lstrip(".")
            for alias in node.names:
                inner = f"{place}.{alias.name}".lstrip(".")
                yield inner if inner in MODULES else place
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("redline."):
                    yield alias.name.removeprefix("redline.")


def room_of(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_from_those_above_it_alone(module):
    room = room_of(module)
    if room in KNOW_ALL or room not in ROOMS:
        return
    below = ROOMS[ROOMS.index(room) + 1 :]
    assert not [other for other in imports(MODULES[module]) if room_of(other) in below]


@pytest.mark.parametrize("module", sorted(BELOW_ALL))
def test_what_lies_below_all_rooms_imports_none(module):
    assert {room_of(other) for other in imports(MODULES[module])} <= BELOW_ALL


def test_data_imports_no_configuration():
    for module, path in MODULES.items():
        if room_of(module) == "data":
            assert "recipe" not in set(imports(path)), module


def test_no_circles():
    """Imports inside of functions and for type checkers count: a circle is a circle."""
    graph = {module: set(imports(path)) & MODULES.keys() for module, path in MODULES.items()}
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                if other != module:
                    walk(other, (*way, module))
            done.add(module)

    for module in graph:
        walk(module, ())


def test_every_room_says_what_lives_there():
    for room in ROOMS:
        folder = SOURCE / room
        if folder.is_dir():
            doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
            assert doc, room
