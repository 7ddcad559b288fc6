"""A dry run: every stage that trains, on a few records, to the end: what would fail after hours fails now.

The records are the longest of each source, responses are sampled at full length, each training takes a step,
and what it saves is loaded again. Nobody is asked and nothing is judged: edits that an LLM would make are
pairs' own two responses.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redline.console import say
from redline.data.files import read_jsonl, write_jsonl
from redline.data.records import Edit, Pair, Prompt, as_text
from redline.data.settings import Source
from redline.recipe import Recipe
from redline.run.files import RunFiles
from redline.run.job import Job
from redline.run.stages import TRAINING, free_memory, read_data, stages_of
from redline.types import Json

FEW = 4  # records of each source
KEYS: dict[str, type[Edit] | type[Prompt]] = {
    "edits": Edit,
    "validation": Edit,
    "prompts": Prompt,
    "eval_prompts": Prompt,
}


def dry_run(recipe: Recipe) -> float:
    """Take a recipe through data, labels and every training, on a few records in a temporary folder, and load
    what was saved. Returns the seconds it took; raises whatever the run would raise."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="redline-dry-") as name:
        folder = Path(name)
        all_records = Job(recipe, RunFiles(folder / "all"))
        read_data(all_records)
        job = Job(_small(recipe, _pick(all_records, folder)), RunFiles(folder / "run"))
        for stage, do in stages_of(job).items():
            if stage in ("data", "label", *TRAINING):
                say(f"dry run: {stage}")
                do(job)
                free_memory()
        say("dry run: load what was saved")
        _load_again(job)
    return time.monotonic() - begun


def _pick(job: Job, folder: Path) -> dict[str, Source]:
    """The longest records of each source, in files of their own."""
    picked: dict[str, Sequence[Any]] = {}
    for source, kind in KEYS.items():
        path = job.files.data(source)
        if path.exists():
            picked[source] = _longest(list(read_jsonl(path, kind)))
    if "edits" not in picked:
        pairs = _longest(list(read_jsonl(job.files.data("pairs"), Pair)))
        picked["edits"] = [
            Edit(id=pair.id, prompt=pair.prompt, rejected=pair.rejected, edited=pair.chosen, editor="dry run")
            for pair in pairs
        ]
    picked.setdefault("validation", picked["edits"])
    sources = {}
    for name, records in picked.items():
        path = folder / f"{name}.jsonl"
        write_jsonl(path, records)
        sources[name] = Source(path=str(path))
    return sources


def _longest(records: list[Any]) -> list[Any]:
    return sorted(records, key=_length, reverse=True)[:FEW]


def _length(record: Json) -> int:
    """Characters of a record's texts."""
    names = ("prompt", "rejected", "edited", "chosen")
    return sum(len(as_text(getattr(record, name, None) or "")) for name in names)


def _small(recipe: Recipe, sources: dict[str, Source]) -> Recipe:
    """The recipe for a few records: a step of each training, responses of full length, no judge."""
    small = recipe.model_copy(deep=True, update={"trackers": []})
    small.data = small.data.model_copy(update={"pairs": None, "test": None, **sources})
    small.reward.epochs, small.reward.batch_size, small.reward.eval_every = 1, FEW, 1
    policy = small.policy
    policy.updates, policy.epochs, policy.checkpoint_every = 1, 1, 1
    policy.batch_size = policy.minibatch_size = FEW
    policy.reward_scale = 1.0  # else it is measured on four batches
    policy.sampling.min_new_tokens = policy.sampling.max_new_tokens
    small.watch.every = 0
    if small.sft is not None:
        small.sft.epochs, small.sft.batch_size = 1, FEW
    if small.direct is not None:
        changes = {"epochs": 1, "batch_size": FEW}
        known = changes.keys() & type(small.direct).model_fields.keys()  # two methods train nothing
        small.direct = small.direct.model_copy(update={name: changes[name] for name in known})
    return small


def _load_again(job: Job) -> None:
    """Load what the stages saved, as the next command would."""
    from redline.engine.models import load_causal_lm
    from redline.reward.model import load_reward_model
    from redline.sampling.check import check_sampling

    model = job.recipe.model.model_copy(update={"revision": None, "load_in_4bit": False})
    if job.files.policy.folder.exists():
        check_sampling(load_causal_lm(model.model_copy(update={"name": str(job.files.policy.folder)})))
    if job.files.reward.folder.exists():
        edit = next(iter(job.edits("validation")))
        load_reward_model(str(job.files.reward.folder)).score([edit.prompt], [edit.edited])
