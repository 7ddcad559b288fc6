"""The lower bounds in pyproject.toml are the versions that .ci/bounds installs and tries."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lower_bounds() -> dict[str, str]:
    """Each declared dependency's lower bound, of the library and of what people install with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["web"]
    declared += project["optional-dependencies"]["demo"]
    bounds = {}
    for line in declared:
        name, _, version = re.split(r"(>=)", line.split(",")[0])
        bounds[name.strip()] = version.strip()
    return bounds


def tried() -> dict[str, str]:
    """The versions that .ci/bounds installs as the lowest."""
    lines = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def test_the_lowest_versions_that_are_declared_are_those_that_are_tried():
    pins = tried()
    differing = {
        name: (bound, pins.get(name))
        for name, bound in lower_bounds().items()
        if pins.get(name, "").removesuffix(".0") != bound.removesuffix(".0")
    }
    assert not differing
