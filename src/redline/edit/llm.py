"""Edits by an LLM: pairs in, a file of edits out, and what they would cost."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from redline.console import say
from redline.data.records import Record, ToEdit
from redline.edit.counts import Counts, Estimate
from redline.edit.editor import Editor, answers_path
from redline.edit.journal import Journal
from redline.edit.prompts import (
    GUIDELINE,
    Template,
    load_template,
    question,
    read_guideline,
    response_text,
)
from redline.edit.settings import EditWith
from redline.errors import UserError


def rejects_path(out: Path) -> Path:
    """Where refused answers go: EDITS.rejects.jsonl beside EDITS.jsonl."""
    return out.with_suffix(".rejects.jsonl")


def edit_pairs(pairs: Sequence[ToEdit | Record], out: Path | str, settings: EditWith) -> Counts:
    """Edit ``pairs`` into the file ``out``, refused ones into ``rejects_path(out)``; both are gone on with
    where they stand.

    An id that either file has is finished. When all are, both files are put into the order of the pairs.
    Returns the counts, which are also printed. Raises UserError where the endpoint, the template or a file
    cannot be used, and, after all the others are done, where pairs are left without an answer: the same call
    tries those again.
    """
    out = Path(out)
    template, guideline = prepare(pairs, settings)
    todo = [_to_edit(pair) for pair in pairs]
    with Journal(out) as edits, Journal(rejects_path(out), keep_empty=False) as rejects:
        counts = _finished(todo, edits, rejects)
        editor = Editor(settings, template, guideline, edits, rejects, counts)
        todo = [pair for pair in todo if pair.id not in edits.places and pair.id not in rejects.places]
        if todo:
            asyncio.run(editor.run(todo))
        if not counts.failed:
            edits.settle(pair.id for pair in pairs)
            rejects.settle(pair.id for pair in pairs)
            answers_path(out).unlink(missing_ok=True)
    for line in counts.lines(settings):
        say(line)
    if counts.failed:
        first, why = next(iter(counts.failed.items()))
        raise UserError(
            f"{out}: {len(counts.failed)} of {counts.pairs} pairs got no answer (the first, {first}: {why}). "
            "The same command tries them again."
        )
    return counts


def _to_edit(pair: ToEdit | Record) -> ToEdit:
    if isinstance(pair, ToEdit):
        return pair
    return ToEdit.model_validate(pair.model_dump(exclude_unset=True))


def prepare(pairs: Sequence[Record], settings: EditWith) -> tuple[Template, str]:
    """The template and the guideline, checked against each other and the pairs. Raises UserError."""
    template = load_template(settings.template)
    guideline = read_guideline(settings.guideline)
    if guideline and "guideline" not in template.fields:
        raise UserError(
            f"--template {settings.template}: the field {{guideline}} is missing, but a guideline is given. "
            "Add it."
        )
    for name, count in Counter(pair.id for pair in pairs).items():
        if count > 1:
            raise UserError(
                f"the id {name} occurs {count} times in the pairs. Give every pair an id of its own."
            )
    for pair in pairs:
        if "chosen" in template.fields and getattr(pair, "chosen", None) is None:
            raise UserError(
                f"--template {settings.template} shows the chosen response, and the pair {pair.id} has none. "
                "Use --template plain, or give `chosen`."
            )
    return template, guideline or GUIDELINE


def dry_run(pairs: Sequence[ToEdit], settings: EditWith, shown: int = 3) -> Estimate:
    """The first filled prompts and an estimate of what all would take, four characters a token, without
    asking anybody."""
    template, guideline = prepare(pairs, settings)
    asked = answered = 0
    prompts: dict[str, str] = {}
    for pair in pairs:
        with contextlib.suppress(ValueError):  # counted as refused by "input" when it is the real thing
            text = question(pair, template, guideline)
            asked += len(text) // 4
            answered += len(response_text(pair.rejected)) // 4 + (100 if template.delimited else 0)
            if len(prompts) < shown:
                prompts[pair.id] = text
    cost = None
    if settings.price_in or settings.price_out:
        cost = Counts(len(pairs), tokens_in=asked, tokens_out=answered).cost(settings)
    return Estimate(len(pairs), asked, answered, cost, prompts)


def _finished(pairs: Sequence[ToEdit], edits: Journal, rejects: Journal) -> Counts:
    """The counts so far, from the files."""
    for journal in (edits, rejects):
        if journal.torn:
            say(f"{journal.path}: its last line was cut off and is dropped")
    ids = {pair.id for pair in pairs}
    both = edits.ids & rejects.ids
    if both:
        raise UserError(f"{rejects.path}: {min(both)} is also in {edits.path}. Delete one of the two lines.")
    counts = Counts(len(pairs))
    for record in edits.records(ids):
        counts.accepted += 1
        counts.no_change += bool((record.model_extra or {}).get("editing", {}).get("no_change"))
    counts.refused.update(str((record.model_extra or {}).get("gate")) for record in rejects.records(ids))
    counts.before = counts.accepted + counts.refused.total()
    return counts
