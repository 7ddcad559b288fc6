"""Write docs/recipe.md from the recipe's own classes: python docs/recipe_reference.py"""

from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from redline import recipe
from redline.experiment import recipe as experiment

HEAD = """# Recipes: every key

A recipe is a YAML file; `redline run RECIPE.yaml key=value ...` overrides single keys (`policy.kl.target=4`). `${NAME}` and
`${NAME:-default}` are filled in from the environment. Unknown keys are refused. This page is made from the recipes' classes by
`python docs/recipe_reference.py`.
"""


def page() -> str:
    sections = [kind for kind in [*vars(recipe).values(), experiment.Experiment]
                if isinstance(kind, type) and issubclass(kind, recipe.Section) and kind is not recipe.Section]
    sections.sort(key=lambda kind: kind is not recipe.Recipe)
    return HEAD + "".join(section(kind) for kind in sections)


def section(kind: type[BaseModel]) -> str:
    lines = [f"\n## {kind.__name__}\n", f"{kind.__doc__}\n", "| key | type | default | |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        described = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {readable(field.annotation)} | {default(field)} | {described} |")
    return "\n".join(lines) + "\n"


def readable(annotation: object) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not getattr(annotation, "__args__", None) else str(annotation)
    for old, new in (("redline.recipe.", ""), ("redline.experiment.recipe.", ""), ("typing.", ""), ("<class '", ""), ("'>", ""),
                     ("|", "\\|")):
        text = text.replace(old, new)
    return f"`{text}`"


def default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    made = field.get_default(call_default_factory=True)
    return "see there" if isinstance(made, BaseModel) or (isinstance(made, list) and made) else f"`{made!r}`"


if __name__ == "__main__":
    (Path(__file__).parent / "recipe.md").write_text(page(), encoding="utf-8")
