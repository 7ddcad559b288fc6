"""Small files of the kinds that people have: each comes out as the table beside them says."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from redline.data.check import Rejects
from redline.data.read import read
from redline.data.records import Edit, Labels, Pair, Prompt, Record, ToEdit, as_text
from redline.data.settings import Source
from redline.data.tokenization import load_tokenizer
from redline.label.settings import Label
from redline.label.stage import label_edits

ROOT = Path(os.environ.get("REDLINE_CASES") or Path(__file__).resolve().parents[2].parent / "shared/cases")
TABLE = yaml.safe_load((ROOT / "cases.yaml").read_text(encoding="utf-8")) if ROOT.is_dir() else []
KINDS: dict[str, type[Record]] = {"pairs": Pair, "edits": Edit}
AB = {"a": "response_0", "b": "response_1", "better": "better_response_id"}
READ_WITH: dict[str, dict[str, Any]] = {  # what the column `needs` of the table says in words
    "03": {"columns": {"prompt": "messages"}},
    "04": {"columns": {"prompt": "conversations"}},
    "07": {"columns": {"prompt": "messages", "chosen": "messages", "rejected": "rejected_response"}},
    "10": {"columns": AB},
    "11": {"columns": {"a": "conversation_a", "b": "conversation_b", "better": "winner"}},
    "13": {"columns": {"answers": "answers"}},
    "16": {
        "columns": {
            "prompt": "data.prompt",
            "rejected": "data.response",
            "edited": "annotations.0.result.0.value.text.0",
        }
    },
    "17": {"columns": {"edited": "edit.responses"}},
}
OWN_TESTS = ("46", "61", "62", "64")  # left out by a later stage: below
READ_ALONE = [case for case in TABLE if case["file"].partition("_")[0] not in OWN_TESTS]
WANTED = {
    "Which planet is the largest?": ("Jupiter", "Saturn"),
    "Who wrote Hamlet?": ("Shakespeare", "Marlowe"),
}


def load(cases_dir, name, kind, rejects=None, **source):
    with rejects or Rejects() as used:
        return list(read(Source(path=str(cases_dir / name), **source), kind, used))


def named(cases_dir, start) -> str:
    return next(case["file"] for case in TABLE if case["file"].startswith(start))


def test_there_is_a_table(cases_dir):
    assert len(TABLE) > 20


@pytest.mark.parametrize("case", READ_ALONE, ids=lambda case: case["file"])
def test_a_file_comes_out_as_the_table_says(cases_dir, case):
    rejects = Rejects()
    options = READ_WITH.get(case["file"].partition("_")[0], {})
    records = load(cases_dir, case["file"], KINDS[case["as"]], rejects, **options)
    assert (len(records), rejects.total) == (case["kept"], case["left_out"]), rejects.summary()
    for record in records:
        assert_right(record, says_truth=not case["file"].startswith("11"))  # where b won, b is false


def assert_right(record, says_truth: bool) -> None:
    """The better side is the better one, the prompt ends before the answer, no side holds a user's turn."""
    prompt = record.prompt
    better, worse = (
        (record.chosen, record.rejected) if isinstance(record, Pair) else (record.edited, record.rejected)
    )
    for side in (better, worse):
        assert isinstance(side, str) or [message["role"] for message in side] == ["assistant"]
    if isinstance(prompt, list):
        assert prompt[-1]["role"] in ("user", "tool")
    asked = as_text(prompt[-1:] if isinstance(prompt, list) else prompt)
    if asked in WANTED and says_truth:
        right, wrong = WANTED[asked]
        assert right in as_text(better)
        assert wrong in as_text(worse) or as_text(worse) == "No idea."


PAIRS = [case["file"] for case in READ_ALONE if case["as"] == "pairs"]


@pytest.mark.parametrize("name", PAIRS)
def test_edit_and_annotate_take_the_pairs_that_a_run_takes(cases_dir, name):
    options = READ_WITH.get(name.partition("_")[0], {})
    pairs = load(cases_dir, name, Pair, **options)
    to_edit = load(cases_dir, name, ToEdit, **options)
    assert [(one.prompt, one.rejected, one.chosen) for one in to_edit] == [
        (pair.prompt, pair.rejected, pair.chosen) for pair in pairs
    ]


def test_the_same_file_as_prompts_ends_with_the_user(cases_dir):
    prompts = load(cases_dir, named(cases_dir, "07"), Prompt, columns={"prompt": "messages"})
    assert [prompt.prompt[-1]["role"] for prompt in prompts] == ["user", "user"]


def test_reasons_and_notes(cases_dir):
    parted, cut = Rejects(), Rejects()
    load(cases_dir, named(cases_dir, "14_"), Edit, parted)
    assert parted.counts == {"the sides part before their last assistant's turn": 1}
    load(cases_dir, named(cases_dir, "14c"), Edit, cut)
    assert cut.notes["what follows the assistant's last turn is cut off"] == 2
    other_types = load(cases_dir, named(cases_dir, "38"), Edit)
    assert other_types[1].editor == "7"
    assert other_types[0].editor == "unknown"
    assert [record.id for record in load(cases_dir, named(cases_dir, "53"), Edit)] == [
        "53_nan_ids-1",
        "53_nan_ids-2",
    ]
    assert [record.prompt for record in load(cases_dir, named(cases_dir, "54"), Edit)] == ["", ""]


def test_tools_reach_the_template(cases_dir):
    (edit,) = load(cases_dir, named(cases_dir, "06"), Edit)
    template = (
        "{% for t in tools %}{{ t.function.name }};{% endfor %}"
        "{% for m in messages %}{{ m.content }}|"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.city }}{% endif %}{% endfor %}"
    )
    tokenizer = load_tokenizer("smollm2-135m", chat_template=template)
    from redline.data.chat_template import answer, render

    assert render(tokenizer, edit.prompt, True).startswith("weather;How warm is it in Oslo?||Oslo")
    turn = answer(tokenizer, edit.prompt, edit.edited)
    assert turn.text[turn.start : turn.end] == "It is 4 degrees in Oslo."


def labelled(cases_dir, name, tokenizer, rejects, **options) -> list[Labels]:
    edits = load(cases_dir, name, Edit, rejects)
    return list(label_edits(edits, tokenizer, rejects=rejects, **options))


def test_a_change_behind_the_crop(cases_dir):
    rejects = Rejects()
    kept = labelled(
        cases_dir,
        named(cases_dir, "46"),
        load_tokenizer("smollm2-135m"),
        rejects,
        max_response_tokens=512,
    )
    assert (len(kept), rejects.total) == (1, 1)


TEMPLATES = ("thinking", "prefilled_thinking", "trimming", "no_system", "inst")
TOKENIZERS = ("smollm2-135m", "bpe_with_bos", "unigram", "wordpiece")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_mark_of_a_template_is_labelled(cases_dir, name, template):
    folder = cases_dir / "templates"
    tokenizer = load_tokenizer(
        name if name == "smollm2-135m" else str(folder / name),
        chat_template=str(folder / f"{template}.jinja"),
    )
    rejects = Rejects()
    records = labelled(cases_dir, named(cases_dir, "61"), tokenizer, rejects)
    rows = (cases_dir / named(cases_dir, "61")).read_text(encoding="utf-8").splitlines()
    assert len(records) + rejects.total == len(rows)
    assert records
    for reason in rejects.counts:
        assert "template" in reason
        assert "`model.chat_template" in reason
    for record in records:
        for tokens, labels in (
            (record.rejected_tokens, record.rejected_labels),
            (record.edited_tokens, record.edited_labels),
        ):
            marked = [token for token, label in zip(tokens, labels, strict=True) if label]
            assert marked
            plain = tokenizer.convert_tokens_to_string(marked).lower()
            for mark in ("im_end", "im_start", "endoftext", "inst", "user", "assistant", "think"):
                assert mark not in plain


def test_pairs_that_labels_will_not_take_are_left_out_before_one_edit(cases_dir, tmp_path, monkeypatch):
    """A run from pairs says so in its data stage; only what is left goes to the editor."""
    from redline.edit import llm
    from redline.recipe import load_recipe
    from redline.run.run import Run

    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "name": "r",
                "model": {"chat_template": str(cases_dir / "templates/no_system.jinja")},
                "data": {"pairs": {"path": str(cases_dir / named(cases_dir, "62"))}},
                "edit": {"model": "smollm2-135m", "template": "plain"},
            }
        )
    )

    class Asked(Exception):
        pass

    def ask(pairs, out, how):
        raise Asked(len(pairs))

    monkeypatch.setattr(llm, "edit_pairs", ask)
    with pytest.raises(Asked, match="4"):
        Run(load_recipe(recipe), tmp_path / "run").go()
    rejects = (tmp_path / "run/data/pairs.rejects.jsonl").read_text().splitlines()
    assert len(rejects) == 6
    assert all(
        "template" in reason or "longer" in reason
        for reason in (json.loads(line)["reason"] for line in rejects)
    )


@pytest.mark.parametrize("name", TOKENIZERS[:1] + TOKENIZERS[2:])
@pytest.mark.parametrize("unit", ["token", "word"])
def test_texts_for_other_tokenizers(cases_dir, name, unit):
    tokenizer = load_tokenizer(name if name == "smollm2-135m" else str(cases_dir / "templates" / name))
    rejects = Rejects()
    records = labelled(cases_dir, named(cases_dir, "64"), tokenizer, rejects, settings=Label(unit=unit))
    rows = (cases_dir / named(cases_dir, "64")).read_text(encoding="utf-8").splitlines()
    assert len(records) + rejects.total == len(rows)
    for record in records:
        assert any(record.rejected_labels) or any(record.edited_labels)


def test_show_and_edits_read_what_label_reads(cases_dir, redline):
    path = cases_dir / named(cases_dir, "66")
    status, out, err = redline("show", path)
    assert (status, err) == (0, "")
    assert "[-bad-]{+good+}" in out.replace(" [", "[") or "bad" in out
    status, out, _ = redline("edits", path)
    assert status == 0
    assert "1 edits" in out


def test_edit_leaves_out_first_what_a_model_will_not_take(cases_dir, tmp_path, redline):
    template = str(cases_dir / "templates/no_system.jinja")
    load_tokenizer("smollm2-135m", chat_template=template).save_pretrained(tmp_path / "model")
    arguments = ["edit", cases_dir / named(cases_dir, "62"), "--out", tmp_path / "e.jsonl", "--dry-run"]
    editor = ["--model", "m", "--base-url", "http://127.0.0.1:9", "--template", "plain"]
    limits = ["--for-model", tmp_path / "model", "--max-prompt-tokens", "512"]
    status, out, err = redline(*arguments, *editor, *limits)
    assert status == 0, err
    assert "4 pairs: about" in out
    assert "4 records, 6 left out" in err
    status, _, err = redline(*arguments, *editor, *limits[2:])
    assert status == 2
    assert "name it with --for-model" in err


def test_label_takes_another_template(cases_dir, tmp_path, redline):
    arguments = ["label", cases_dir / named(cases_dir, "61"), "--out", tmp_path / "l.jsonl"]
    arguments += ["--tokenizer", cases_dir / "templates/unigram"]
    status, _, err = redline(*arguments)
    assert status == 2
    assert "has no chat template" in err
    status, _, err = redline(*arguments, "--chat-template", cases_dir / "templates/trimming.jinja")
    assert status == 0, err
    assert "12 records" in err
