"""Whatever one command accepts and writes, the next accepts: random pairs through all that read."""

import io
import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from redline.annotate import people
from redline.annotate.export import export
from redline.annotate.handout import next_work
from redline.annotate.intake import add_pairs, set_up
from redline.annotate.schema import connect
from redline.annotate.submissions import Submission, submit
from redline.chat import Answer
from redline.data.check import Rejects
from redline.data.files import write_jsonl
from redline.data.read import read
from redline.data.records import Edit, Labels, Pair, Response, ToEdit
from redline.data.settings import Source
from redline.data.show import show_file
from redline.edit import editor, llm
from redline.edit.command import statistics_of
from redline.edit.settings import EditWith
from redline.judge.command import compare_command
from redline.judge.judges import load_judge
from redline.label.stage import label_file

MARK = "\n=====\n"
word = st.sampled_from(["red", "blue", "naïve", "日本", "👍🏽", "10,5", "", "[x]", "a\nb", "\u00a0"])
text = st.lists(word, min_size=1, max_size=5).map(" ".join)


def message(role):
    plain = st.fixed_dictionaries({"role": st.just(role), "content": text})
    sharegpt = st.fixed_dictionaries({"from": st.just({"user": "human"}.get(role, "gpt")), "value": text})
    parts = text.map(lambda said: {"role": role, "content": [{"type": "text", "text": said}]})
    return plain | sharegpt | parts


@st.composite
def pair(draw):
    """A pair in one of the shapes that people have, sound or not."""
    asked = draw(st.lists(message("user"), min_size=1, max_size=2))
    if draw(st.booleans()):
        asked = [{"role": "system", "content": draw(text)}, *asked]
    sides = [draw(message("assistant")) for _ in range(2)]
    shape = draw(
        st.sampled_from(["text", "messages", "whole", "repeated", "single", "mixed", "user last", "none"])
    )
    plain = {name: draw(text) for name in ("prompt", "chosen", "rejected")}
    names = ("chosen", "rejected")
    if shape == "text":
        made = plain
    elif shape == "messages":
        made = {"prompt": asked} | {name: [side] for name, side in zip(names, sides, strict=True)}
    elif shape == "whole":
        made = {name: [*asked, side] for name, side in zip(names, sides, strict=True)}
    elif shape == "repeated":
        made = {"prompt": asked} | {name: [*asked, side] for name, side in zip(names, sides, strict=True)}
    elif shape == "single":
        made = {"prompt": asked} | dict(zip(names, sides, strict=True))
    elif shape == "mixed":
        made = plain | {"prompt": asked}
    elif shape == "user last":
        made = {name: [*asked, side, asked[-1]] for name, side in zip(names, sides, strict=True)}
    else:
        made = plain | {"prompt": None}
    return made | draw(
        st.dictionaries(st.sampled_from(["id", "editor", "n"]), st.integers(0, 3) | text | st.none())
    )


class Scripted:
    """An editor in place of an LLM: it adds a word."""

    model, retries_made = "scripted", 0

    def __init__(self, *_, **__):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def ask(self, messages, max_tokens=None):
        return Answer(messages[0]["content"].rpartition(MARK)[2] + " indeed")


def everything(path, kind):
    rejects = Rejects()
    return list(read(Source(path=str(path)), kind, rejects)), rejects


def edited_by_people(todo, folder) -> Path:
    engine = connect(f"sqlite:///{folder}/edits.db")
    set_up(engine, "edit", "", 1.0, 0.0, None)
    rejects = Rejects()
    count = add_pairs(engine, todo, rejects)
    assert count.added + rejects.total == len(todo)
    ada = people.ensure(engine, "ada")
    while work := next_work(engine, ada, 60):
        submit(engine, work.id, ada, Submission("edited", work.original + " indeed", "", 1.0, work.revision))
    export(engine, folder / "people.jsonl")
    engine.dispose()
    return folder / "people.jsonl"


def through_what_follows(path, count, tokenizer, folder) -> None:
    """Label, show, edits and compare take every edit of a file."""
    edits, rejects = everything(path, Edit)
    assert (len(edits), rejects.total) == (count, 0), rejects.summary()
    labelled = label_file(Source(path=str(path)), folder / "labels.jsonl", tokenizer)
    beside = folder / "labels.rejects.jsonl"
    left_out = len(beside.read_text().splitlines()) if beside.exists() else 0
    assert labelled + left_out == count
    for line in (folder / "labels.jsonl").read_text().splitlines():
        Labels.model_validate_json(line)
    screen = io.StringIO()
    show_file(Source(path=str(path)), 100, Console(file=screen, width=80))
    assert screen.getvalue().count("\n\n") >= count
    statistics_of(Source(path=str(path)), None)
    for side in ("rejected", "edited"):
        answers = [Response(id=edit.id, prompt=edit.prompt, response=getattr(edit, side)) for edit in edits]
        write_jsonl(folder / f"{side}.jsonl", answers)
    names = [str(folder / f"{side}.jsonl") for side in ("edited", "rejected")]
    result = compare_command(names, load_judge("length"), folder / "winrate.json")
    assert result.n == count


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(pair(), min_size=1, max_size=5))
def test_random_pairs_through_all_commands(tokenizer, monkeypatch, pairs):
    monkeypatch.setattr(editor, "open_chat", Scripted)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "pairs.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in pairs), encoding="utf-8")
        checked, rejects = everything(path, Pair)
        assert len(checked) + rejects.total == len(pairs)
        todo, rejects = everything(path, ToEdit)
        assert len(todo) + rejects.total == len(pairs)
        assert {pair.id for pair in checked} <= {pair.id for pair in todo}
        if not todo:
            return
        write_jsonl(folder / "data.jsonl", checked)  # as a run writes what it has read
        assert everything(folder / "data.jsonl", Pair)[0] == checked
        template = folder / "template.txt"
        template.write_text("{prompt}" + MARK + "{rejected}")
        how = EditWith(
            model="scripted",
            base_url="http://127.0.0.1:9",
            template=str(template),
            max_ratio=1.0,
            skip_gates=["format", "remark", "after"],
        )
        counts = llm.edit_pairs(todo, folder / "edits.jsonl", how)
        assert counts.accepted == len(todo)
        through_what_follows(folder / "edits.jsonl", len(todo), tokenizer, folder)
        by_people = edited_by_people(todo, folder)
        through_what_follows(by_people, len(todo), tokenizer, folder)
