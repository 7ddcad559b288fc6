"""The recipe's section `data`: where records come from."""

from typing import Any, Literal

from pydantic import Field, field_validator

from redline.errors import UserError
from redline.section import Section

Format = Literal["auto", "hh", "alpaca", "openai", "label_studio", "argilla", "prodigy", "doccano"]


class Source(Section):
    """Where records come from, and how their columns are called there."""

    path: str | list[str]
    """A file (.jsonl .json .csv .tsv .parquet .xlsx, also .gz .zst .bz2 .xz), a folder of such files or one
    that save_to_disk wrote, a pattern such as `shards/*.jsonl`, the name of a data set on the Hub, or a list
    of these."""
    split: str = "train"
    """Split of a Hub data set, of a saved folder, or of a folder of shards."""
    config: str | None = None
    """Configuration name of a Hub data set, or the sheet of a workbook."""
    format: Format = "auto"
    """Whose export it is, where columns alone do not say it: see docs/data.md. hh: HH-RLHF transcripts."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our field -> their column (`a.b.0` for what lies deeper), or a template such as
    `"{article}\\n\\nSummary:"`."""
    values: dict[str, Literal["a", "b", "tie"]] = Field(default_factory=dict)
    """What the values of the column mapped to `better` mean, where they do not say it: `{"1": a, "2": b}`."""
    sides: dict[str, str] = Field(default_factory=dict)
    """Two rows a record: the value of the column mapped to `side` -> the field its `text` column becomes."""
    replace: dict[str, str] = Field(default_factory=dict)
    """Text replaced in every text field, for example `{"<br />": " "}`."""
    first_words: int | None = Field(None, ge=1)
    """Keep only so many words of each prompt: openings to continue."""
    limit: int | None = Field(None, ge=1)
    """Read at most so many records."""
    delimiter: str | None = None
    """What separates a table's cells, where the head line does not show it: one character, or tab."""
    quoting: Literal["auto", "standard", "none"] = "auto"
    """Quotation marks in a table: standard (around cells), none (they are text), or as the file shows it."""
    encoding: str | None = None
    """A file's encoding, where it is neither UTF-8 nor UTF-16 with its mark: cp1252, latin-1, ..."""

    @field_validator("columns", "values", "sides", "replace", mode="before")
    @classmethod
    def _keys_as_text(cls, given: Any) -> Any:
        """YAML reads `1: a` and `true: chosen` with keys that are no text."""
        if not isinstance(given, dict):
            return given
        return {_key_as_text(key): value for key, value in given.items()}

    @property
    def paths(self) -> list[str]:
        """The path, or all of them."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def name(self) -> str:
        """The path for messages."""
        first, *others = self.paths or [""]
        return f"{first} and {len(others)} more" if others else first


def _key_as_text(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


class Data(Section):
    """What the run learns from and is measured on. Give `edits`, or `pairs` together with the `edit`
    section."""

    pairs: Source | None = None
    """Preference pairs: prompt, chosen, rejected."""
    edits: Source | None = None
    """Minimal edits: prompt, rejected, edited."""
    feedback: Source | None = None
    """Single responses that people liked or disliked: prompt, response, liked. For `direct.method: bco`."""
    validation: Source | None = None
    """Edits to validate the reward model on; without it a share of the edits is held out, chosen by a hash of
    the id."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """That share."""
    test: Source | None = None
    """Edits that the finished reward model is measured on once, and that choose nothing."""
    prompts: Source | None = None
    """Prompts that PPO samples from; without it, the prompts of the training edits."""
    eval_prompts: Source | None = None
    """Prompts of the comparison, and of `watch`; without it, the prompts of the validation edits."""
    max_prompt_tokens: int = Field(512, ge=1)
    """A record with a longer prompt is rejected (and counted)."""
    max_response_tokens: int = Field(512, ge=1)
    """What is longer than this is dealt with as `over_long` says."""
    over_long: Literal["crop", "reject"] = "crop"
    """crop: keep the first `max_response_tokens` of a response's labels; reject: leave the record out,
    counted."""


def assignments(options: list[str] | None, name: str) -> dict[str, str]:
    """The ``key=value`` options of a command as a dict (``\\n`` in a value is a line break). Raises UserError
    for any other."""
    pairs = [option.partition("=") for option in options or []]
    for key, equals, value in pairs:
        if not (key.strip() and equals and value.strip()):
            raise UserError(
                f"{name} {key}{equals}{value}: write it as key=value, for example {name} rejected=candidate."
            )
    return {key.strip(): value.strip().replace("\\n", "\n") for key, _, value in pairs}
