"""Write docs/recipe.md from the recipe's own classes: python docs/recipe_reference.py"""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from redline import recipe
from redline.experiment import recipe as experiment
from redline.section import Section

HEAD = """# Recipes: every key

A recipe is a YAML file; `redline run RECIPE.yaml key=value ...` overrides single keys (`policy.kl.target=4`).
`${NAME}` and `${NAME:-default}` are filled in from the environment. Unknown keys are refused. This page is
made from the recipes' classes by `python docs/recipe_reference.py`.
"""


def page() -> str:
    sections = [recipe.Recipe, *sections_in(recipe.Recipe), experiment.Experiment]
    return HEAD + "".join(section(kind) for kind in dict.fromkeys(sections))


def sections_in(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The sections that a section's fields hold, in their order, and those inside of them."""
    for field in kind.model_fields.values():
        for inner in classes_in(field.annotation):
            yield inner
            yield from sections_in(inner)


def classes_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The sections that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from classes_in(argument)


def section(kind: type[BaseModel]) -> str:
    lines = [
        f"\n## {kind.__name__}\n",
        f"{' '.join((kind.__doc__ or '').split())}\n",
        "| key | type | default | |",
        "|---|---|---|---|",
    ]
    for name, field in kind.model_fields.items():
        described = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {readable(field.annotation)} | {default(field)} | {described} |")
    return "\n".join(lines) + "\n"


def readable(annotation: object) -> str:
    text = (
        annotation.__name__
        if isinstance(annotation, type) and not getattr(annotation, "__args__", None)
        else str(annotation)
    )
    text = re.sub(r"redline\.(\w+\.)*", "", text)
    # one of several sections, told apart by a key
    text = re.sub(r"(typing\.)?Optional\[(typing\.)?Annotated\[([^,]*), FieldInfo\(.*", r"\3 | None", text)
    for old, new in (("typing.", ""), ("<class '", ""), ("'>", ""), ("|", "\\|")):
        text = text.replace(old, new)
    return f"`{text}`"


def default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    made = field.get_default(call_default_factory=True)
    return "see there" if isinstance(made, BaseModel) or (isinstance(made, list) and made) else f"`{made!r}`"


if __name__ == "__main__":
    (Path(__file__).parent / "recipe.md").write_text(page(), encoding="utf-8")
