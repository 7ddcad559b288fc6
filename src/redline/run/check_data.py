"""A few records of each source, read and rendered as the run will, before anything is trained."""

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redline.data.check import Rejects
from redline.data.read import read
from redline.data.records import Edit, Feedback, Pair, Prompt, Record
from redline.data.settings import Source
from redline.engine.settings import Model
from redline.errors import UserError
from redline.run.check_model import POSITIONS, ModelFiles
from redline.run.job import Job

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FEW = 10  # records of each source
KINDS: dict[str, type[Any]] = {
    "pairs": Pair,
    "edits": Edit,
    "feedback": Feedback,
    "validation": Edit,
    "test": Edit,
    "prompts": Prompt,
    "eval_prompts": Prompt,
}
SAMPLED = ("edits", "prompts", "eval_prompts")  # whose prompts are answered
Count = Callable[[Record], int]


def data_problems(job: Job, stages: set[str]) -> Iterator[str]:
    """What is wrong with the sources, and with their records for the model."""
    data = job.recipe.data
    records: dict[str, list[Record]] = {}
    for name, kind in KINDS.items():
        source: Source | None = getattr(data, name)
        unused = name == "pairs" and data.edits is not None
        if source is None or unused or not ({"data", "edit", "label"} & stages) or _is_on_the_hub(source):
            continue
        try:
            records[name] = _first(source, kind)
        except UserError as error:
            yield f"data.{name}: {error}"
    yield from _held_out_problems(job, records)
    yield from _chosen_problems(job, records)
    yield from _render_problems(job, records)


def _is_on_the_hub(source: Source) -> bool:
    """Whether a source is a data set that would have to be downloaded."""
    return any(map(_is_a_name_on_the_hub, source.paths))


def _is_a_name_on_the_hub(name: str) -> bool:
    path = Path(name).expanduser()
    return name.count("/") == 1 and name[0] not in "./~" and not path.suffix and not path.exists()


def _first(source: Source, kind: type[Any]) -> list[Record]:
    """The first usable records of a source. Raises UserError when there is none."""
    rejects = Rejects()
    few = source.model_copy(update={"limit": min(FEW, source.limit or FEW)})
    records = list(islice(read(few, kind, rejects), FEW))
    if not records:
        raise UserError(f"{source.name} gives no usable record ({rejects.summary()}).")
    return records


def _held_out_problems(job: Job, records: dict[str, list[Record]]) -> Iterator[str]:
    """Whether a small source leaves something to train on and to validate with."""
    edits = [record for record in records.get("edits", []) if isinstance(record, Edit)]
    if job.recipe.data.validation is not None or not 0 < len(edits) < FEW:
        return
    held_out = sum(job.is_held_out(edit) for edit in edits)
    if held_out in (0, len(edits)):
        what = "validate" if held_out == 0 else "train"
        yield (
            f"data.validation_share: of {len(edits)} edits none is left to {what} with. Give more edits, "
            "name data.validation, or change data.validation_share."
        )


def _chosen_problems(job: Job, records: dict[str, list[Record]]) -> Iterator[str]:
    """Whether the preferred responses are there that the recipe learns from."""
    wanted = []
    if job.recipe.sft is not None and job.recipe.sft.responses == "chosen":
        wanted.append("sft.responses")
    if job.recipe.reward.kind == "sequence" and job.recipe.reward.pairs == "chosen":
        wanted.append("reward.pairs")
    edits = records.get("edits")
    if edits and all(getattr(edit, "chosen", None) is None for edit in edits):
        for key in wanted:
            yield (
                f"{key} is chosen, and the first edits have no `chosen`. Map it with data.edits.columns, or "
                "use edited."
            )


def _render_problems(job: Job, records: dict[str, list[Record]]) -> Iterator[str]:
    """Whether prompts and responses go through the chat template, and fit into the model's positions."""
    model = ModelFiles(job.recipe.model, "model")
    try:
        count = _counter(job, model, records)
    except UserError as error:
        yield f"model.name: {error}"
        return
    if count is None:
        return
    places, limit = model.number(POSITIONS), job.recipe.data.max_prompt_tokens
    room = job.recipe.policy.sampling.max_new_tokens
    for name, found in records.items():
        sizes, reasons = [], []
        for record in found:
            try:
                sizes.append(count(record))
            except UserError as error:
                reasons.append(str(error))
        if not sizes:
            yield f"data.{name}: of the first {len(found)} records none can be used ({reasons[0]})."
            continue
        fitting = [size for size in sizes if size <= limit]
        if not fitting:
            yield (
                f"data.max_prompt_tokens is {limit}, and the prompts of the first {len(found)} records of "
                f"data.{name} are longer ({min(sizes)} tokens and more). Raise it."
            )
        elif places is not None and name in SAMPLED and max(fitting) + room > places:
            yield (
                f"data.{name}: a prompt of {max(fitting)} tokens and policy.sampling.max_new_tokens {room} "
                f"do not fit into the {places} positions of {job.recipe.model.name}. Lower "
                "data.max_prompt_tokens or policy.sampling.max_new_tokens."
            )


def _counter(job: Job, model: ModelFiles, records: dict[str, list[Record]]) -> Count | None:
    """What counts the tokens of a record's prompt, and renders its conversation; None where the model is not
    here. Text alone needs no more than the file tokenizer.json, which is read at once."""
    if model.folder is None:
        return None
    every = [record for rows in records.values() for record in rows]
    talks = any(isinstance(getattr(record, "prompt", None), list) for record in every)
    fast = model.folder / "tokenizer.json"
    if not talks and fast.exists():
        tokenizer = _read_tokenizer(fast)
        return lambda record: len(tokenizer.encode(str(getattr(record, "prompt", ""))).ids)

    from redline.data.tokenization import encode_prompt, encode_response

    loaded = _load_tokenizer(job.recipe.model.model_dump_json())

    def rendered(record: Record) -> int:
        prompt = getattr(record, "prompt", "")
        for side in ("rejected", "edited"):
            response = getattr(record, side, None)
            if response is not None:
                encode_response(loaded, prompt, response)
        return len(encode_prompt(loaded, prompt))

    return rendered


@functools.lru_cache(4)  # an experiment's runs have the same one
def _read_tokenizer(file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


@functools.lru_cache(4)
def _load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a recipe's section ``model``, given as JSON."""
    from redline.engine.models import tokenizer_of

    return tokenizer_of(Model.model_validate_json(model))
