"""What the result of each stage depends on, by value: recipe keys and the contents of files.

A stage is done again when one of these values has changed, and only then. Values that are a key's default
are left out, so that a key that a later version adds changes nothing.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline.data.settings import Source
from redline.engine.settings import Model
from redline.functions import is_function_name
from redline.recipe import Recipe, sections_in
from redline.sampling.settings import VllmServer
from redline.section import Section
from redline.types import Json, JsonObject
from redline.urls import without_logins

Settings = JsonObject
_UNKNOWN = object()  # where there is no value: None is one
CONTENTS = "the contents of "  # begins the name of a value that is a file's contents
NO_MATTER = {  # keys that change no result, or none that was paid for
    "edit": ("concurrency", "rate", "retries", "timeout", "price_in", "price_out", "base_url", "api_key_env"),
    "policy": ("checkpoint_every", "sample_every", "show_samples", "microbatch_tokens"),
    "compare": ("concurrency", "api_key_env"),
    "watch": ("api_key_env",),
}
POLICIES = (
    "policy.start",
    "direct.policy",
    "direct.extra",
    "direct.seed",
)  # keys that name a finished policy
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model")


class Depends:
    """What the stages of a recipe depend on. ``made_with`` tells models that runs made by their settings."""

    def __init__(self, recipe: Recipe, made_with: Callable[[str], str]):
        self.recipe, self.made_with = recipe, made_with

    def settings(self, stage: str) -> Settings:
        """All that the result of a stage depends on: dotted keys of the recipe, and contents of files."""
        of: dict[str, Callable[[], Settings]] = {
            "data": self._data,
            "edit": self._edit,
            "label": self._label,
            "sft": self._sft,
            "reward": self._reward,
            "policy": self._policy,
            "compare": self._compare,
            "report": self._report,
        }
        # as JSON has it, so that it is equal to what is read back
        settings: Settings = json.loads(without_logins(json.dumps(of[stage]())))
        return settings

    def _data(self) -> Settings:
        settings: Settings = {}
        for name in ("edits", "feedback", "validation", "test", "prompts", "eval_prompts"):
            settings |= self._source(name)
        return settings | (self._source("pairs") if self.recipe.data.edits is None else {}) | self._prompts()

    def _edit(self) -> Settings:
        edit = self.recipe.edit
        settings = self._source("pairs") | self._section("edit")
        if edit is not None:
            settings |= contents("edit.template", edit.template)
            settings |= contents("edit.guideline", edit.guideline.removeprefix("@"))
        return settings

    def _edits(self) -> Settings:
        """The edits, wherever they come from."""
        return self._source("edits") if self.recipe.data.edits is not None else self._edit()

    def _training_edits(self) -> Settings:
        """The edits without those that are held out."""
        if self.recipe.data.validation is not None:
            return self._edits()
        return self._edits() | self._keys("data.validation_share")

    def _label(self) -> Settings:
        model = self.recipe.reward.model if self.recipe.trains_reward else None
        tokenizer = _tokenizer(model, "reward.model") if model else _tokenizer(self.recipe.model, "model")
        return {
            **self._training_edits(),
            **self._source("validation"),
            **self._source("test"),
            **self._section("label"),
            **self._keys("data.max_prompt_tokens", "data.max_response_tokens", "data.over_long"),
            **tokenizer,
        }

    def _sft(self) -> Settings:
        sizes = self._keys("data.max_prompt_tokens", "data.max_response_tokens")
        return self._seed() | self._training_edits() | sizes | self._section("model") | self._section("sft")

    def _model(self) -> Settings:
        """The model that reward and policy start from."""
        return self._sft() if self.recipe.sft is not None else self._section("model")

    def _reward(self) -> Settings:
        model = {} if self.recipe.reward.model else self._model()
        return self._seed() | self._label() | model | self._section("reward")

    def _prompts(self) -> Settings:
        """What decides which prompts are too long."""
        data = self.recipe.data
        if data.prompts is None and data.eval_prompts is None:
            return {}
        return _tokenizer(self.recipe.model, "model") | self._keys("data.max_prompt_tokens")

    def _training_prompts(self) -> Settings:
        return self._source("prompts") | self._prompts() if self.recipe.data.prompts else self._label()

    def _policy(self) -> Settings:
        """PPO's policy, or that of another method."""
        recipe = self.recipe
        settings = self._seed() | self._model() | self._section("policy") | self._section("direct")
        if recipe.trains_reward:
            settings |= self._reward()
        if recipe.direct is not None:
            settings |= self._label() | self._source("feedback")
        if recipe.direct is None or recipe.direct.samples_prompts:
            settings |= self._training_prompts()
        for key in POLICIES:
            if settings.get(key):
                settings[key] = self.made_with(settings[key])
        for number, term in enumerate(recipe.policy.reward):
            if term.model:
                settings[f"policy.reward.{number}.model"] = self.made_with(term.model)
            if term.log_ratio is not None:
                where = f"policy.reward.{number}.log_ratio"
                settings[f"{where}.model"] = self.made_with(term.log_ratio.model)
                settings[f"{where}.over"] = self.made_with(term.log_ratio.over)
            settings |= contents(f"policy.reward.{number}.function", term.function)
        sampler = recipe.policy.sampler
        if isinstance(sampler, VllmServer):  # which server draws, and how patiently, changes no result
            return {key: value for key, value in settings.items() if not key.startswith("policy.sampler.")}
        return settings | contents("policy.sampler", sampler)

    def _sampled(self) -> Settings:
        """The responses that are compared."""
        compare = self._section("compare")
        keys = [key for key in compare if key.startswith(("compare.sampling", "compare.limit"))]
        own = self.recipe.data.eval_prompts is not None
        prompts = self._source("eval_prompts") | self._prompts() if own else self._label()
        return self._policy() | self._training_prompts() | prompts | {key: compare[key] for key in keys}

    def sampled(self) -> str:
        """What tells the responses that are compared from others."""
        return digest(json.loads(json.dumps(self._sampled())))

    def _compare(self) -> Settings:
        judge = self.recipe.compare
        answers = contents("compare.judge", judge.judge.removeprefix("human:"))
        question = contents("compare.template", judge.template)
        return self._sampled() | self._section("compare") | answers | question

    def _report(self) -> Settings:
        return self._data() | self._compare() | self._keys("name") | self._section("watch")

    def _seed(self) -> Settings:
        return self._keys("seed")

    def _section(self, name: str) -> Settings:
        """The keys of a section that are not as they are by default, without those that matter to nothing."""
        section = getattr(self.recipe, name)
        if section is None:
            return {}
        left_out = set(NO_MATTER.get(name, ()))
        plain = section.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
        settings: Settings = {name: True} | _flat(plain, f"{name}.")
        if name == "direct":
            settings["direct.method"] = section.method
        for key in ("model.name", "reward.model.name"):
            if key in settings:
                settings[key] = self.made_with(settings[key])
        return settings

    def _keys(self, *keys: str) -> Settings:
        """Some keys, as far as they are not as they are by default."""
        plain = _flat(self.recipe.model_dump(mode="json", exclude_defaults=True))
        return {key: plain[key] for key in keys if key in plain}

    def _source(self, name: str) -> Settings:
        """A source of records: what the recipe says of it and, of a local one, its contents wherever it
        lies."""
        source: Source | None = getattr(self.recipe.data, name)
        if source is None:
            return {}
        settings = _flat(source.model_dump(mode="json", exclude_defaults=True), f"data.{name}.")
        held: Settings = {}
        for path in source.paths:
            held |= contents(f"data.{name}", path)
        if held:
            settings[f"data.{name}.path"] = ", ".join(Path(path).name for path in source.paths)
        return settings | held


def digest(settings: Settings) -> str:
    """A short text that tells settings from others."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Change:
    """A value that a stage's result depends on and that has changed; as text, with its old and new value."""

    key: str
    text: str

    def __str__(self) -> str:
        return self.text


def changes(before: Settings, now: Settings) -> list[Change]:
    """What differs between two settings of one stage. Files that are no longer there have not changed."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, _UNKNOWN), now.get(key, _UNKNOWN)
        if old == new or (key.startswith(CONTENTS) and new is _UNKNOWN):
            continue
        if key.startswith(CONTENTS) and old is not _UNKNOWN:
            found.append(Change(key, f"{key} have changed"))
        elif not key.startswith(CONTENTS) and not _is_covered(key, before, now):
            found.append(Change(key, f"{key} was {_shown(key, old)}, is {_shown(key, new)} now"))
    return found


def _is_covered(key: str, before: Settings, now: Settings) -> bool:
    """Whether a key only says that a section is there, and other keys of it say what changed."""
    is_section = (before.get(key) is True and key not in now) or (now.get(key) is True and key not in before)
    return is_section and any(other.startswith(f"{key}.") for other in before.keys() | now.keys())


def _shown(key: str, value: Json) -> str:
    if value is _UNKNOWN:
        value = default_of(key)
    if value is _UNKNOWN:
        return "not set"
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def default_of(key: str) -> Any:
    """The default of a dotted recipe key; ``_UNKNOWN`` where it has none."""
    kind: Any = Recipe
    *parents, last = key.split(".")
    for part in parents:
        if part.isdigit():
            continue
        field = kind.model_fields.get(part)
        kind = next(sections_in(field.annotation), None) if field is not None else None
        if kind is None:
            return _UNKNOWN
    field = kind.model_fields.get(last)
    if field is None or field.is_required():
        return _UNKNOWN
    default = field.get_default(call_default_factory=True)
    return _UNKNOWN if isinstance(default, Section | list | dict) else default


def contents(key: str, name: str | None) -> Settings:
    """The contents of what a recipe key names, where it is a local file or folder, or a function in one."""
    if not name:
        return {}
    if is_function_name(name):
        name = name.rpartition(":")[0]
    elif "\n" in name or len(name) > 1000:  # a text, not a path
        return {}
    path = Path(name).expanduser()
    if not path.exists():
        return {}
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {f"{CONTENTS}{path.name} ({key})": _contents_of(files, path)}


def _contents_of(files: Iterable[Path], root: Path) -> str:
    whole = hashlib.sha256()
    for file in files:
        stat = file.stat()
        whole.update(
            f"{file.relative_to(root)}\0{_contents_of_file(file, stat.st_mtime_ns, stat.st_size)}".encode()
        )
    return whole.hexdigest()[:16]


@functools.lru_cache(4096)
def _contents_of_file(file: Path, changed: int, size: int) -> str:
    """The checksum of a file, which is read again only when its time or size has changed."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _tokenizer(model: Model, where: str) -> Settings:
    """What decides how a model's tokenizer encodes: its name, or the files of a local folder."""
    keys = ("name", "revision", "chat_template", "chat_template_kwargs")
    plain = model.model_dump(mode="json", exclude_defaults=True, include=set(keys))
    settings = _flat(plain, f"{where}.")
    folder = Path(model.name).expanduser()
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            settings |= contents(f"{where}.name", str(folder / name))
    return settings


def _flat(plain: JsonObject, prefix: str = "") -> Settings:
    """Nested plain data with dotted keys."""
    flat: Settings = {}
    for key, value in plain.items():
        if isinstance(value, dict) and value and all(re.fullmatch(r"\w+", str(inner)) for inner in value):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                flat |= _flat(item, f"{prefix}{key}.{number}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
