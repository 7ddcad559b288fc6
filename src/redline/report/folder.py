"""What a run's folder holds, as far as it has come: missing files are missing stages, not mistakes."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import yaml

from redline.data.files import read_json
from redline.errors import UserError
from redline.recipe import Recipe, check_recipe
from redline.run.files import RunFiles
from redline.types import JsonObject

Line = JsonObject


class RunFolder:
    """A run's folder, read only. Raises UserError when ``path`` is none."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.files = RunFiles(self.path)
        recipe = self.files.recipe
        if not recipe.is_file():
            raise UserError(
                f"{path}: not the folder of a run (it has no recipe.yaml). Give what `redline run` wrote, "
                "such as runs/quickstart."
            )
        if not any(path.exists() for path in (self.files.state, self.files.begun, self.files.data("edits"))):
            raise UserError(
                f"{path}: not the folder of a run: its recipe.yaml was not written by `redline run`, which "
                "leaves state.json beside it. Give what `redline run` wrote, such as runs/quickstart."
            )
        try:
            plain = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{recipe}: cannot be read ({' '.join(str(error).split())}).") from error
        self.recipe: Recipe = check_recipe(plain, str(recipe))

    @property
    def name(self) -> str:
        return self.recipe.name

    def name_of(self, path: Path) -> str:
        """A file's name inside the folder."""
        return str(path.relative_to(self.path))

    def json(self, path: Path) -> Line | None:
        """The object in a file, or None when it is not there (yet). Raises UserError when it is broken."""
        if not path.exists():
            return None
        found = read_json(path)
        if not isinstance(found, dict):
            raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}.")
        return found

    def lines(self, path: Path) -> list[Line]:
        """The objects of a JSON Lines file; none when it is not there. See ``stream``."""
        return list(self.stream(path))

    def stream(self, path: Path) -> Iterator[Line]:
        """The objects of a JSON Lines file, one by one. A torn last line, of a run under way, is left out.

        Raises UserError for any other line that is no JSON object.
        """
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            torn = ""
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if torn:
                    raise UserError(f"{path}, {torn} Repeat the stage that wrote it.")
                try:
                    value = json.loads(line)
                except ValueError as error:
                    torn = f"line {number}: not valid JSON ({error})."
                    continue
                if not isinstance(value, dict):
                    raise UserError(
                        f"{path}, line {number}: expected a JSON object, found {type(value).__name__}."
                    )
                yield value

    def count(self, path: Path) -> int:
        """How many lines a file has; 0 when it is not there."""
        if not path.exists():
            return 0
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())

    def verdicts(self) -> list[Line]:
        """Every compared prompt: ``id, prompt, a`` (after), ``b`` (before) and ``preference`` for a (None: no
        verdict)."""
        return [row for row in self.lines(self.files.verdicts) if {"prompt", "a", "b"} <= set(row)]

    def drawn(self, rows: list[Line], count: int) -> list[Line]:
        """``count`` of some rows, drawn at random with the run's seed: the same ones in every report."""
        return random.Random(self.recipe.seed).sample(rows, min(count, len(rows)))
