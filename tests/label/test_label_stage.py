"""Labels of edits: by token, by word, by white space; cropped, carried through, quick, and streamed."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from typer.testing import CliRunner

from redline.data.check import Rejects
from redline.data.files import read_jsonl
from redline.data.records import Edit, Labels
from redline.data.settings import Source
from redline.data.tokenization import fingerprint, token_ids
from redline.errors import UserError
from redline.label.settings import Label
from redline.label.stage import label_edits, label_file
from redline.label.tokens import carried
from tiny_tokenizers import byte_bpe


def one(rejected, edited, tokenizer="whitespace", prompt="", **options):
    (record,) = label_edits(
        [Edit(id="1", prompt=prompt, rejected=rejected, edited=edited)], tokenizer, **options
    )
    return record


@pytest.mark.parametrize(
    ("rejected", "edited", "minus", "plus"),
    [
        ("it was bad", "it was very bad", [0, 0, 0], [0, 0, 1, 0]),  # insertion only
        ("it was very bad", "it was bad", [0, 0, -1, 0], [0, 0, 0]),  # deletion only
        ("it was bad", "it was bad", [0, 0, 0], [0, 0, 0]),  # unchanged
        ("it was bad", "I liked all this", [-1, -1, -1], [1, 1, 1, 1]),  # everything changed
        ("it was bad", "it was good", [0, 0, -1], [0, 0, 1]),
        ("bad", "", [-1], []),
    ],
)
def test_labels_of_words(rejected, edited, minus, plus):
    record = one(rejected, edited)
    assert (record.rejected_labels, record.edited_labels) == (minus, plus)
    assert (record.rejected_tokens, record.edited_tokens) == (rejected.split(), edited.split())
    assert record.tokenizer == "whitespace"


def test_labels_of_tokens_are_those_of_the_tokenizer(tokenizer):
    record = one(" was bad and unfair.", " was good and fair.", tokenizer, prompt="the film")
    rejected, edited = token_ids(record, tokenizer)
    assert tokenizer.decode(rejected) == " was bad and unfair."
    assert tokenizer.decode(
        [t for t, label in zip(edited, record.edited_labels, strict=True) if not label]
    ) in (" was and.", " was andfair.")
    assert record.tokenizer == fingerprint(tokenizer)
    assert len(rejected) == len(record.rejected_labels)


def test_a_run_starts_at_a_word_where_it_can(tokenizer):
    """ "unfair" inserted before "unfair": either may be the new one, but a run from "fair" to "un" is none of
    them."""
    record = one("play unfair .", "play unfair unfair .", tokenizer)
    first = record.edited_labels.index(1)
    assert record.edited_tokens[first].startswith("Ġ")
    assert (
        tokenizer.decode(
            [
                t
                for t, label in zip(token_ids(record, tokenizer)[1], record.edited_labels, strict=True)
                if label
            ]
        )
        == " unfair"
    )


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="ab é한👍.\n", max_size=25), st.text(alphabet="ab é한👍.\n", max_size=25))
def test_kept_tokens_are_the_same_on_both_sides_and_as_many_as_can_be(tokenizer, rejected, edited):
    record = one(rejected, edited, tokenizer)
    sides = [(record.rejected_tokens, record.rejected_labels), (record.edited_tokens, record.edited_labels)]
    kept = [[token for token, label in zip(*side, strict=True) if not label] for side in sides]
    assert kept[0] == kept[1]
    changed = [len(labels) - len(kept[0]) for _, labels in sides]
    assert max(changed) <= Levenshtein.distance(record.rejected_tokens, record.edited_tokens) <= sum(changed)


def test_words_are_carried_to_tokens(tokenizer):
    record = one(" replaying unfair", " replaying fair", tokenizer, settings=Label(unit="word"))
    changed = [t for t, label in zip(record.rejected_tokens, record.rejected_labels, strict=True) if label]
    assert (
        tokenizer.convert_tokens_to_string(changed) == " unfair"
    )  # the whole word, however many tokens it has
    assert carried([(4, 7)], [(0, 2), (2, 3), (3, 5), (5, 7), (7, 7)]) == [(2, 3), (3, 4)]
    emoji = one("한 👍 a", "한 👎 a", tokenizer, settings=Label(unit="word"))
    assert emoji.rejected_labels[-1] == 0
    assert emoji.rejected_labels.count(-1) >= 3  # each of the sign's bytes


def test_messages(tokenizer):
    ask = [{"role": "user", "content": "Was the film good?"}]
    record = one("It was bad.", [{"role": "assistant", "content": "It was good."}], tokenizer, prompt=ask)
    assert record.prompt == ask
    assert tokenizer.convert_tokens_to_string(record.edited_tokens) == "It was good."
    rejects = Rejects()
    with pytest.raises(UserError, match="no chat template"):
        list(
            label_edits([Edit(id="1", prompt=ask, rejected="a", edited="b")], byte_bpe(None), rejects=rejects)
        )


def test_long_records_are_cropped_or_left_out_with_the_reason(tokenizer):
    long = Edit(id="1", prompt="p " * 20, rejected="a b c d", edited="a b x d e")
    short = Edit(id="2", prompt="p", rejected="a b", edited="a c")
    (record, _) = label_edits([long, short], "whitespace", max_response_tokens=3)
    assert (record.rejected_labels, record.edited_tokens) == ([0, 0, -1], ["a", "b", "x"])
    for options, reason in (
        ({"max_response_tokens": 4, "over_long": "reject"}, "response longer than 4 tokens"),
        ({"max_prompt_tokens": 10}, "prompt longer than 10 tokens"),
    ):
        rejects = Rejects()
        kept = list(label_edits([long, short], tokenizer, rejects=rejects, **options))
        assert [record.id for record in kept] == ["2"]
        assert rejects.counts == {reason: 1}


def test_the_stage_carries_prompt_and_unknown_keys_through(tmp_path):
    rows = [
        {
            "id": "a",
            "prompt": "p",
            "rejected": "x y",
            "edited": "x z",
            "editor": "me",
            "chosen": "c",
            "rating": [1],
        },
        {"id": "b", "prompt": "p", "rejected": "x", "edited": "x", "tokenizer": "theirs"},
    ]
    source = tmp_path / "edits.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert label_file(Source(path=str(source)), tmp_path / "labels.jsonl", "whitespace") == 1
    (line,) = (tmp_path / "labels.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "id": "a",
        "prompt": "p",
        "editor": "me",
        "chosen": "c",
        "rating": [1],
        "tokenizer": "whitespace",
        "rejected_tokens": ["x", "y"],
        "rejected_labels": [0, -1],
        "edited_tokens": ["x", "z"],
        "edited_labels": [0, 1],
    }
    assert "equal" in (tmp_path / "labels.rejects.jsonl").read_text()
    assert (
        label_file(Source(path=str(source)), tmp_path / "labels.jsonl", "whitespace", keep_unchanged=True)
        == 2
    )
    assert [record.tokenizer for record in read_jsonl(tmp_path / "labels.jsonl", Labels)] == [
        "whitespace"
    ] * 2
    source.write_text(json.dumps(rows[1]))
    with pytest.raises(UserError, match="no edit could be labelled"):
        label_file(Source(path=str(source)), tmp_path / "labels.jsonl", "whitespace")


def test_labelling_is_streamed(tokenizer):
    """Labels come while the edits still do: never more than a batch is held."""
    asked = 0

    def edits():
        nonlocal asked
        for asked in range(1, 1001):
            yield Edit(id=str(asked), prompt="", rejected=f"the film {asked}", edited=f"the book {asked}")

    for done, _ in enumerate(label_edits(edits(), tokenizer)):
        assert asked - done <= 64
    assert asked == 1000


def test_five_thousand_pairs_of_512_words_are_labelled_in_seconds():
    """benchmarks/labels.py measures 20,000 of real text."""
    import random

    draw = random.Random(0)
    words = [f"w{k}" for k in range(3000)]
    texts = []
    for _ in range(500):
        rejected = [words[int(3000 * draw.random() ** 3)] for _ in range(512)]
        edited = list(rejected)
        for place in sorted(draw.sample(range(512), 25), reverse=True):
            edited[place : place + draw.choice((0, 1, 2))] = draw.choices(words, k=draw.choice((0, 1, 3)))
        texts.append((" ".join(rejected), " ".join(edited)))
    edits = (
        Edit(id=str(k), prompt="", rejected=texts[k % 500][0], edited=texts[k % 500][1]) for k in range(5_000)
    )
    start = time.process_time()
    assert sum(1 for _ in label_edits(edits, "whitespace")) == 5_000
    assert time.process_time() - start < 20  # some 3 s on one idle core


def test_the_command(tmp_path):
    from redline.cli import app

    table = tmp_path / "e.csv"
    table.write_text("bad,good\nit was bad,it was good\n")
    out = tmp_path / "labels.jsonl"
    run = CliRunner().invoke(
        app,
        [
            "label",
            str(table),
            "--out",
            str(out),
            "--tokenizer",
            "whitespace",
            "--columns",
            "rejected=bad",
            "--columns",
            "edited=good",
        ],
    )
    assert run.exit_code == 0, run.output
    assert json.loads(out.read_text())["edited_labels"] == [0, 0, 1]
    for options, message in (
        (["--columns", "bad"], "write it as key=value"),
        (["--unit", "line"], "--unit: Input should be 'token' or 'word'"),
        (["--fill", "-1"], "--fill: Input should be greater than or equal to 0"),
        (["--tokenizer", str(tmp_path)], "not a model folder"),
    ):
        run = CliRunner().invoke(
            app, ["label", str(table), "--out", str(out), "--tokenizer", "whitespace", *options]
        )
        assert isinstance(run.exception, UserError)
        assert message in str(run.exception)
