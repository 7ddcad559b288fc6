"""Edits that were paid for, kept where a change does not concern them."""

import json
from collections.abc import Sequence
from pathlib import Path

from redline.console import say
from redline.data.check import Rejects
from redline.data.files import read_jsonl, write_jsonl
from redline.data.read import read
from redline.data.records import Pair, Record
from redline.edit.llm import rejects_path
from redline.run.depends import Change
from redline.run.files import RunFiles
from redline.run.job import Job

MORE_CHANCES = {"edit.attempts", "edit.max_tokens"}  # keys that may turn a refusal into an edit, not undo one


def keep_edits(job: Job, aside: RunFiles, changes: Sequence[Change]) -> None:
    """Take back from ``aside`` the edits, and the refusals, that the changes do not concern: those of pairs
    that are as they were, unless the editor itself has changed."""
    about_pairs = [change for change in changes if "data.pairs" in change.key]
    more_chances = [change for change in changes if change.key in MORE_CHANCES]
    if len(about_pairs) + len(more_chances) < len(changes):
        return
    assert job.recipe.data.pairs is not None  # the stage `edit` has pairs
    ids = {_shown(pair): pair.id for pair in read(job.recipe.data.pairs, Pair, Rejects())}
    before, now = aside.data("edits"), job.files.data("edits")
    edits = _of_pairs(before, ids)
    if edits:
        write_jsonl(now, edits)
    if not more_chances and (refused := _of_pairs(rejects_path(before), ids)):
        write_jsonl(rejects_path(now), refused)
    say(f"{len(edits):,} edits are kept: their pairs are as they were")


def _of_pairs(path: Path, ids: dict[str, str]) -> list[Record]:
    """The records of a file whose pair is still there, with the id that the pair has now."""
    if not path.exists():
        return []
    records = []
    for record in read_jsonl(path, Record):
        pair_id = ids.get(_shown(record))
        if pair_id is not None:
            records.append(record.model_copy(update={"id": pair_id}))
    return records


def _shown(record: Record) -> str:
    """What an editor was shown of a pair, as text."""
    plain = record.model_dump(mode="json")
    return json.dumps([plain.get(name) for name in ("prompt", "rejected", "chosen")])
