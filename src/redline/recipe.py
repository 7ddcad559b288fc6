"""A run, typed: the sections of a recipe in one class, and how a YAML file becomes one.

Each section lives in the room that it configures. A key that is not listed is refused by name.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, model_validator

from redline.data.settings import Data
from redline.direct.settings import Direct, DirectBco, Sft
from redline.edit.settings import EditWith
from redline.engine.settings import Model
from redline.errors import Problems, UserError
from redline.judge.settings import Compare
from redline.label.settings import Label
from redline.policy.settings import Policy, Watch
from redline.reward.settings import Reward
from redline.sampling.settings import VllmServer
from redline.section import Section
from redline.types import Json, JsonObject
from redline.urls import without_logins

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

S = TypeVar("S", bound=Section)


class Recipe(Section):
    """A run."""

    name: str = "run"
    """The run's folder is runs/<name> unless --out says otherwise."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds everything that is drawn at random."""
    model: Model = Field(default_factory=Model)
    """The language model to align."""
    data: Data
    """What it learns from."""
    edit: EditWith | None = None
    """An LLM that edits the pairs."""
    label: Label = Field(default_factory=Label)
    """Edits to token labels."""
    sft: Sft | None = None
    """Optional first stage."""
    reward: Reward = Field(default_factory=Reward)
    """The reward model."""
    policy: Policy = Field(default_factory=Policy)
    """PPO."""
    direct: Direct | None = None
    """Another method in its place; each has its own keys."""
    watch: Watch = Field(default_factory=Watch)
    """Is the policy gaming its reward? A judge looks on."""
    compare: Compare = Field(default_factory=Compare)
    """The win rate."""
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)
    """Where Accelerate also sends the metrics; a local JSON Lines file is always written."""

    @property
    def trains_reward(self) -> bool:
        """Whether a run trains a reward model: for PPO, or for a method that ranks by it."""
        if self.direct is not None and not self.ranks_by_reward:
            return False
        return any(term.own for term in self.policy.reward)

    @property
    def ranks_by_reward(self) -> bool:
        """Whether a method without PPO asks the run's reward which response is better."""
        return self.direct is not None and self.direct.ranks_by_reward

    @property
    def has_edits(self) -> bool:
        """Whether it learns from edits: given ones, or those that an LLM makes of pairs."""
        return self.data.edits is not None or self.data.pairs is not None

    @model_validator(mode="after")
    def _anchors_are_adapters(self) -> "Recipe":
        has_adapters = self.policy.adapt.lora_rank > 0
        if self.direct is not None and self.direct.keeps_copies and not has_adapters:
            raise ValueError(
                f"`direct.method: {self.direct.method}` keeps frozen copies of the policy, which are "
                "adapters: set `policy.adapt.lora_rank` above 0"
            )
        return self

    @model_validator(mode="after")
    def _has_data(self) -> "Recipe":
        learns_from_feedback = isinstance(self.direct, DirectBco)
        if self.data.feedback is not None and not learns_from_feedback:
            raise ValueError(
                "`data.feedback` is what `direct.method: bco` learns from; nothing else reads it"
            )
        if not self.has_edits and self.data.feedback is None:
            raise ValueError("data needs `edits`, or `pairs` and an `edit` section")
        if self.has_edits and self.data.edits is None and self.edit is None:
            raise ValueError("`data.pairs` without `data.edits` needs an `edit` section that says who edits")
        return self


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe, apply `key=value` overrides (dotted keys, YAML values), fill in `${VARIABLES}` of the
    environment.

    Relative paths of data files and edit templates are relative to the recipe's folder. Raises UserError with
    the file and the key.
    """
    return check_recipe(read_plain(path, overrides), str(path))


def read_plain(path: str | Path, overrides: list[str] | None = None) -> JsonObject:
    """What a YAML file says, as `load_recipe` reads it, before it is checked."""
    path = Path(path)
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # the latter of a date such as 2024-13-45, and of bytes that are no UTF-8
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(plain, dict):
        raise UserError(
            f"{path}: a recipe is a mapping of sections, such as `data:`; this is {type(plain).__name__}."
        )
    for override in overrides or []:
        key, value = parsed(override)
        set_key(plain, key, value, override)
    return expanded(plain, path)


def expanded(plain: JsonObject, path: Path) -> JsonObject:
    """The same with the environment's variables filled in, and paths that lie beside the file ``path`` found
    there. What has been expanded before stays as it is. Raises UserError for a variable that is not set."""
    found: JsonObject = _expand(plain, path)
    return found


def check_recipe(plain: JsonObject, where: str) -> Recipe:
    """A Recipe from plain data; raises UserError naming `where` and the key."""
    return check(plain, Recipe, where)


def check(plain: JsonObject, kind: type[S], where: str) -> S:
    """A section from plain data; raises Problems: a line for each key that is wrong, naming `where`."""
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        raise Problems([f"{where}: {_problem(one, kind)}" for one in error.errors()]) from error


def _problem(error: "ErrorDetails", kind: type[Section]) -> str:
    """What is wrong with a key, and how to mend it."""
    key, section, choices = _located(kind, error["loc"])
    given = error["input"]
    if error["type"] == "extra_forbidden":
        return f"unknown key `{key}`. {_hint(key, section, choices, kind)}"
    if error["type"].startswith("union_tag"):
        methods = [_method(choice) for choice in choices]
        close = difflib.get_close_matches(str(error.get("ctx", {}).get("tag", "")), methods, 1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        return f"`{key}.method` has to be one of {', '.join(methods)}.{hint}"
    if error["type"] == "model_type" and isinstance(given, str | int | float) and choices:
        usual = ("name", "path", "judge", "model", "method")
        names = [name for name in usual if name in choices[0].model_fields]
        first = names[0] if names else next(iter(choices[0].model_fields))
        return f"`{key}` is a section. Did you mean {key}.{first}={given}?"
    if error["type"] == "literal_error":
        allowed = re.findall(r"'([^']+)'", str(error.get("ctx", {}).get("expected", "")))
        close = difflib.get_close_matches(str(given), allowed, 1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        return f"`{key}` is {given!r}; it can be {', '.join(allowed)}.{hint}"
    return f"`{key}`: {error['msg']}." if key else f"{error['msg']}."


def _located(
    kind: type[Section], loc: tuple[int | str, ...]
) -> tuple[str, type[Section], list[type[Section]]]:
    """The dotted key of a place in a recipe, the section that it is in, and where the section is one of
    several, all of them. Among several, pydantic names the one by its `method`, which no key of a recipe
    does."""
    keys, section, choices = list[str](), kind, list[type[Section]]()
    inside: list[type[Section]] = [kind]
    for part in loc:
        if len(inside) > 1 and part in [_method(one) for one in inside]:
            choices, section = inside, next(one for one in inside if _method(one) == part)
            inside = [section]
            continue
        if inside and inside[0] is not section:
            section, choices = inside[0], []
        keys.append(str(part))
        if isinstance(part, str):
            field = section.model_fields.get(part)
            inside = list(sections_in(field.annotation)) if field is not None else []
    return ".".join(keys), section, choices or inside


def _method(section: type[Section]) -> str:
    """The method that a section of `direct` configures; empty for any other section."""
    field = section.model_fields.get("method")
    return str(get_args(field.annotation)[0]) if field is not None else ""


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    """The sections among the types of an annotation such as ``Kl | None`` or ``list[RewardTerm]``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from sections_in(inner)


def _hint(key: str, section: type[Section], choices: list[type[Section]], recipe: type[Section]) -> str:
    """What could have been meant by an unknown key: one beside it, or one of the same name elsewhere."""
    name, known = key.rpartition(".")[2], list(section.model_fields)
    owners = [_method(other) for other in choices if name in other.model_fields]
    if owners:
        return (
            f"`direct.method: {_method(section)}` has no `{name}` (it belongs to "
            f"{', '.join(owners)}). It has: {', '.join(known)}."
        )
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"Did you mean `{close[0]}`?"
    elsewhere = [other for other in _all_keys(recipe) if other.rpartition(".")[2] == name]
    near = [other for other in elsewhere if other.partition(".")[0] == key.partition(".")[0]]
    if elsewhere:
        return f"Did you mean `{(near or elsewhere)[0]}`?"
    return f"Known here: {', '.join(known)}."


def _all_keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Every key of a section, those of its sections too, with dots; items of lists as number 0."""
    for name, field in kind.model_fields.items():
        yield f"{prefix}{name}"
        for inner in sections_in(field.annotation):
            is_list = get_origin(field.annotation) is list
            yield from _all_keys(inner, f"{prefix}{name}.0." if is_list else f"{prefix}{name}.")


def parsed(override: str) -> tuple[str, Any]:
    """Key and value of a `key=value` override. Raises UserError when it is none."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"`{override}`: an override is key=value, for example policy.updates=20.")
    try:
        return key, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"`{override}`: the value is not valid YAML.") from error


def sampler_of(text: str) -> str | VllmServer:
    """What ``policy.sampler`` in a recipe would be with this value: a function's name, or a server's section.
    Raises UserError for anything else."""
    _, value = parsed(f"sampler={text}")
    return value if isinstance(value, str) else check(value, VllmServer, "--sampler")


def set_key(plain: JsonObject, key: str, value: Json, override: str) -> None:
    """Set a dotted key of plain data; ``override`` is what the user wrote. Raises UserError where the key
    leads through a value."""
    *parents, last = key.split(".")
    here: Any = plain
    for parent in parents:
        if isinstance(here, list):
            here = here[_place(parent, here, override)]
        else:
            if here.get(parent) is None:
                here[parent] = {}
            here = here[parent]
        if not isinstance(here, dict | list):
            raise UserError(f"`{override}`: `{parent}` is a value, not a section.")
    if isinstance(here, list):
        here[_place(last, here, override)] = value
    else:
        here[last] = value


def schema_text() -> str:
    """The JSON schema of recipes: what editors with a YAML language server complete and check by."""
    schema = Recipe.model_json_schema()
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A recipe of Redline"}
    return json.dumps(schema, indent=2, ensure_ascii=False)


def as_yaml(section: Section) -> str:
    """What a recipe says, as it is kept beside what was made with it: without logins."""
    return without_logins(
        yaml.safe_dump(section.model_dump(exclude_unset=True), sort_keys=False, allow_unicode=True)
    )


def _place(key: str, here: list[Any], override: str) -> int:
    if not key.isdigit() or int(key) >= len(here):
        raise UserError(
            f"`{override}`: `{key}` is no place in a list of {len(here)}; they are counted from 0."
        )
    return int(key)


def _expand(value: Json, recipe: Path, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _expand(inner, recipe, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, recipe) for inner in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name not in os.environ and default is None:
            raise UserError(
                f"{recipe}: `{key}` needs the environment variable {name}. Set it: {name}=... redline run "
                f"{recipe}"
            )
        return os.environ.get(name) or default or ""

    value = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", variable, value)
    last = key.rpartition(".")[2]  # an experiment's arms have dotted keys
    file, colon, function = value.partition(":") if last in ("judge", "function") else (value, "", "")
    if (
        last in ("path", "template", "judge", "function")
        and file
        and (recipe.parent / file).exists()
        and not Path(file).exists()
    ):
        return str(recipe.parent / file) + colon + function
    return value
