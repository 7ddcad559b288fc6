"""A reward for every token of edits or responses, by character offset: the stage behind ``redline score``."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from redline.console import print_json, track
from redline.data.check import Rejects
from redline.data.files import check_apart, write_jsonl
from redline.data.read import read, read_files
from redline.data.records import Edit, Response, Scores, Text
from redline.data.rows import rows
from redline.data.settings import Source
from redline.errors import UserError
from redline.reward.model import RewardModel, load_reward_model

BATCH = 32


def score_texts(model: RewardModel, texts: Iterable[tuple[dict[str, str], Text, Text]]) -> Iterator[Scores]:
    """Scores of ``(fields, prompt, response)`` triples, streamed; ``fields`` (at least ``id``) go into the
    record."""
    texts = iter(texts)
    while batch := list(islice(texts, BATCH)):
        all_fields, prompts, responses = zip(*batch, strict=True)
        scored = model.score(list(prompts), list(responses))
        for fields, (text, offsets, rewards) in zip(all_fields, scored, strict=True):
            rounded = [round(reward, 4) for reward in rewards.tolist()]
            yield Scores(**fields, text=text, offsets=offsets, rewards=rounded)


def score_file(source: Source, reward: str, out: Path) -> int:
    """Score edits (both sides: two records of one id, with ``side``) or responses; returns the number of
    records.

    Raises UserError when the file is missing or holds neither, when ``out`` is the same file, or when
    ``reward`` is no reward model.
    """
    return _write_scores(source, reward, out).kept


def score_command(source: Source, reward: str, out: Path, as_json: bool) -> None:
    """``redline score``; ``as_json`` prints the counts."""
    rejects = _write_scores(source, reward, out)
    if as_json:
        print_json({"out": str(out)} | rejects.as_json())


def _write_scores(source: Source, reward: str, out: Path) -> Rejects:
    """Do what ``score_file`` says; returns the counts."""
    check_apart([out], read_files(source))
    model = load_reward_model(reward)
    with Rejects.beside(out) as rejects:
        rejects.kept = write_jsonl(out, track(score_texts(model, _texts(source, rejects)), "score"))
        rejects.report(str(out))
    if not rejects.kept:
        raise UserError(f"{source.name}: nothing could be scored ({rejects.summary()}).")
    return rejects


def _texts(source: Source, rejects: Rejects) -> Iterator[tuple[dict[str, str], Text, Text]]:
    if _holds_edits(source):
        for edit in read(source, Edit, rejects, keep_unchanged=True):
            yield {"id": edit.id, "side": "rejected"}, edit.prompt, edit.rejected
            yield {"id": edit.id, "side": "edited"}, edit.prompt, edit.edited
    else:
        for response in read(source, Response, rejects):
            yield {"id": response.id}, response.prompt, response.response


def _holds_edits(source: Source) -> bool:
    """Whether the records are edits: the source says where their edited side is, or the first row has one."""
    if "edited" in source.columns or source.sides:
        return True
    for row in rows(source):
        if not row.problem:
            return "edited" in row.values
    return False
