"""``redline init``: a commented recipe for a file of edits or pairs."""

import os
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import yaml
from rich.console import Console

from redline.data.check import Rejects
from redline.data.files import whole_file
from redline.data.read import read
from redline.data.records import Edit, Pair, Record, as_text
from redline.data.rows import rows
from redline.data.settings import Format, Source
from redline.data.show import visible
from redline.errors import UserError
from redline.types import JsonObject

CHECKED = 10  # records
NAMES = {
    "prompt": ("prompt", "question", "instruction", "input", "query", "context", "source", "src", "article"),
    "rejected": (
        *("rejected", "original", "before", "draft", "worse", "bad", "candidate", "mt", "answer", "response"),
        *("output", "completion", "model_output", "generated", "toxic"),
    ),
    "edited": (
        *("edited", "edit", "after", "corrected", "correction", "revised", "revision", "pe", "post_edit"),
        *("sent", "fixed", "good", "neutral", "target", "gold"),
    ),
    "chosen": ("chosen", "better", "preferred", "good", "winner_response"),
}  # how others call our fields, the surest first
RECIPE = """\
# Made by: redline init {file}
# Every key is explained in docs/recipe.md; `redline schema` gives editors the schema.
# Next: redline check {out}        (seconds)
#       redline run {out}
name: {name}
seed: 0

# The model to align: a Hugging Face name, a folder, or smollm2-135m, which needs no download.
model: {{name: {model}}}

data:
{data}
  # One edit in ten is held out to validate the reward model; give `validation` to choose them yourself.
  validation_share: 0.1
  # Longer responses are cropped to so many tokens, edits with longer prompts are left out.
  max_prompt_tokens: 512
  max_response_tokens: {longest}
{edit}
# A token reward model learns from what the edits removed and put in. `depth` cuts the model to its lower
# layers, `train_layers` says how many of these get adapters.
reward:
  epochs: 3

# Fine-grained PPO: `updates` steps of `batch_size` responses each. More updates, more change; `kl.target`
# (nats a response) says how far the policy may go from the model.
policy:
  updates: 40
  batch_size: 16
  minibatch_size: 16
  kl: {{target: 6}}
  sampling: {{max_new_tokens: {sampled}}}

# Who says whether the policy became better, on the prompts of the held-out edits. `length` prefers the
# shorter answer and only shows that all works: give an LLM (with base_url), human:FILE, vader, or a function.
compare:
  judge: length
"""
LLM = """
# An LLM corrects the rejected responses. Without base_url it is a model in this process.
edit:
  model: smollm2-135m
  # base_url: https://api.openai.com/v1      # and OPENAI_API_KEY in the environment
  # guideline: every statement is supported by the article
"""


def init_command(source: Source, out: Path, model: str) -> None:
    """Write a recipe for a source and print what was guessed and ten records' check.

    Raises UserError where ``out`` exists, or where no guess of columns and format reads any record.
    """
    if out.exists():
        raise UserError(f"{out}: exists. Choose another --out, or move it.")
    first = next((row.values for row in islice(rows(source), CHECKED) if isinstance(row.values, dict)), None)
    if first is None:
        raise UserError(f"{source.path}: no record in it can be read.")
    guess, kind, records, rejects = best_guess(source, first)
    stem = str(source.path if isinstance(source.path, str) else source.path[0])
    write_text(out, recipe_text(guess, kind, records, out, model, Path(stem).stem or "run"))
    _print(guess, kind, records, rejects, list(first), out)


def best_guess(source: Source, first: JsonObject) -> tuple[Source, type[Record], list[Any], Rejects]:
    """The source with the format and columns by which most of the first records can be read, and as what:
    edits, else pairs. Raises UserError where none can."""
    formats = [source.format] if source.format != "auto" else list(get_args(Format))
    best: tuple[Source, type[Record], list[Any], Rejects] | None = None
    problem = ""
    kinds: tuple[Any, ...] = (Edit, Pair)
    for kind in kinds:
        for format in formats:
            columns = source.columns or (guessed(kind, first) if format == "auto" else {})
            guess = source.model_copy(update={"format": format, "columns": columns})
            rejects = Rejects()
            try:
                records: list[Any] = list(islice(read(guess, kind, rejects), CHECKED))
            except UserError as error:
                problem = problem or str(error)
                continue
            if records and (best is None or len(records) > len(best[2])):
                best = guess, kind, records, rejects
    if best is None:
        raise UserError(
            f"{source.path}: read neither as edits nor as pairs. Its columns: {', '.join(map(str, first))}. "
            f"Say which are which with --columns rejected=... --columns edited=... ({problem})"
        )
    return best


def guessed(kind: type[Record], row: JsonObject) -> dict[str, str]:
    """Our field -> their column, for the fields of a record that go by another name in this row."""
    theirs: dict[str, str] = {}
    for name in row:
        theirs.setdefault(str(name).lower().rstrip("_0123456789"), str(name))
    columns: dict[str, str] = {}
    for field in ("edited", "chosen", "rejected", "prompt"):
        if field not in kind.model_fields or field in row:
            continue
        taken = set(columns.values())
        found = [theirs[name] for name in NAMES[field] if name in theirs and theirs[name] not in taken]
        if found:
            columns[field] = found[0]
    return columns


def recipe_text(
    source: Source, kind: type[Record], records: list[Any], out: Path, model: str, name: str
) -> str:
    """The recipe, with comments. Response lengths follow the records that were looked at."""
    plain = source.model_dump(exclude_defaults=True) | {"path": _beside(source.path, out)}
    section = {"edits" if kind is Edit else "pairs": plain}
    data = yaml.safe_dump(section, sort_keys=False, allow_unicode=True)
    words = max(len(as_text(record.rejected).split()) for record in records)
    longest = next((size for size in (64, 128, 256, 512) if size >= 2 * words), 512)
    return RECIPE.format(
        file=source.path if isinstance(source.path, str) else " ".join(source.path),
        out=out,
        name=name,
        model=model,
        data="".join(f"  {line}\n" for line in data.splitlines()).rstrip(),
        longest=longest,
        sampled=min(longest, 64),
        edit="" if kind is Edit else LLM,
    )


def _beside(path: str | list[str], out: Path) -> str | list[str]:
    """A recipe's paths are relative to its folder."""
    if isinstance(path, list):
        return [str(_beside(part, out)) for part in path]
    return os.path.relpath(path, out.parent) if Path(path).exists() else path


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def _print(
    source: Source, kind: type[Record], records: list[Any], rejects: Rejects, columns: list[str], out: Path
) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    what = "edits" if kind is Edit else "pairs"
    console.print(f"columns: {visible(', '.join(columns))}")
    if source.format != "auto":
        console.print(f"format: {source.format}")
    fields = ("prompt", "rejected", "edited") if kind is Edit else ("prompt", "chosen", "rejected")
    for field in fields:
        sample = visible(" ".join(as_text(getattr(records[0], field)).split()))
        console.print(f"{field:>9} = {source.columns.get(field, field)}: {sample[:70]}")
    console.print(f"{len(records)} {what} read, {rejects.total} left out of the first ones")
    for reason, count in rejects.counts.most_common(3):
        console.print(f"  {count} {reason}")
    console.print(f"{out} is written. Next: redline run {out}")
