"""The recipe's section `data`: where records come from."""

from typing import Literal

from pydantic import Field

from redline.errors import UserError
from redline.section import Section


class Source(Section):
    """Where records come from, and how their columns are called there."""

    path: str
    """A file (.jsonl .json .csv .tsv .parquet), a saved data set's folder, or the name of a data set on the
    Hub."""
    split: str = "train"
    """Split of a Hub data set or saved folder."""
    config: str | None = None
    """Configuration name of a Hub data set."""
    format: Literal["auto", "hh"] = "auto"
    """hh: HH-RLHF transcripts, `chosen` and `rejected` each holding the whole dialogue."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our field -> their column (`a.b` for nested ones), or a template such as
    `"{article}\\n\\nSummary:"`."""
    sides: dict[str, str] = Field(default_factory=dict)
    """Two rows a record: the value of the column mapped to `side` -> the field its `text` column becomes."""
    replace: dict[str, str] = Field(default_factory=dict)
    """Text replaced in every text field, for example `{"<br />": " "}`."""
    first_words: int | None = Field(None, ge=1)
    """Keep only so many words of each prompt: openings to continue."""
    limit: int | None = Field(None, ge=1)
    """Read at most so many records."""


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
