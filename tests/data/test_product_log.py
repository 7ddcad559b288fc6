"""A product's log: what is a correction of the draft, and what is not."""

import json

import pytest

from redline.data.product_log import import_log
from redline.data.settings import Source
from redline.errors import UserError

SIGN = "\n\nBest regards,\nMaria from support"
DRAFT = "Your parcel left our house on Monday and will reach you on Friday this week."


def row(number, draft=DRAFT, sent=DRAFT, **more):
    return {"prompt": f"Where is parcel {number}?", "draft": draft, "sent": sent, "user": "maria"} | more


LOG = [
    row(1, sent=DRAFT.replace("Friday", "Thursday") + SIGN, time="2026-03-01T10:00"),
    row(2, draft=DRAFT + " A", sent=DRAFT + " A", time="2026-03-01T10:05"),
    row(3, draft=DRAFT + " B", sent=DRAFT + " B" + SIGN, time="2026-03-01T10:06"),
    row(4, draft=DRAFT + " C", sent="I will call you.", time="2026-03-01T10:07"),
    row(5, draft=DRAFT + " D", sent=None, time="2026-03-01T10:08"),
    row(6, draft="", sent="Hello.", time="2026-03-01T10:09"),
    # one draft, sent back for more: versions
    row(
        7,
        draft="It costs 10 euros and is red.",
        sent="It costs 12 euros and is red.",
        time="2026-03-02T10:00",
    ),
    row(
        7,
        draft="It costs 12 euros and is red.",
        sent="It costs 12 euros and is blue.",
        time="2026-03-02T10:01",
    ),
    # the same draft id
    row(8, "We open at nine each day.", "We open at ten each day.", id="d8", time="2026-03-03T09:00"),
    row(8, "We open at nine each day.", "We open at ten each Monday.", id="d8", time="2026-03-03T09:30"),
]


def write(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return Source(path=str(path))


def test_corrections_are_kept_and_the_rest_is_counted(tmp_path):
    result = import_log(write(tmp_path / "log.jsonl", LOG), tmp_path / "edits.jsonl")
    edits = [json.loads(line) for line in (tmp_path / "edits.jsonl").read_text().splitlines()]
    assert [(edit["rejected"], edit["edited"], edit["versions"]) for edit in edits] == [
        (DRAFT, DRAFT.replace("Friday", "Thursday"), 1),
        ("It costs 10 euros and is red.", "It costs 12 euros and is blue.", 2),
        ("We open at nine each day.", "We open at ten each Monday.", 2),
    ]
    assert edits[0]["editor"] == "maria"
    assert (result.rows, result.edits) == (10, 3)
    assert result.changed == {"versions of one draft joined": 2, "signatures cut off": 1}
    assert result.dropped == {
        "sent as it was": 1,
        "only a signature was added": 1,
        "rewritten: more than 50% of the words changed": 1,
        "nothing was sent": 1,
        "the draft is empty": 1,
    }
    assert result.rows == result.edits + result.changed["versions of one draft joined"] + sum(
        result.dropped.values()
    )
    rejects = (tmp_path / "edits.rejects.jsonl").read_text().splitlines()
    assert len(rejects) == sum(result.dropped.values())


def test_an_ending_that_a_user_always_adds_is_a_signature(tmp_path):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    rows = [
        row(
            k,
            draft=f"The {word} lamp is green today.",
            sent=f"The {word} lamp is red today.\nHave fun with it!",
        )
        for k, word in enumerate(words)
    ]
    result = import_log(write(tmp_path / "log.jsonl", rows), tmp_path / "edits.jsonl")
    assert result.changed == {"signatures cut off": 8}
    assert '"edited": "The one lamp is red today."' in (tmp_path / "edits.jsonl").read_text()


def test_the_command_and_other_columns(tmp_path, redline):
    rows = [{"vorschlag": "Es ist rot und alt.", "final": "Es ist blau und alt.", "n": 3}]
    write(tmp_path / "log.jsonl", rows)
    arguments = ["import-log", tmp_path / "log.jsonl", "--out", tmp_path / "e.jsonl"]
    mapped = ["--columns", "draft=vorschlag", "--columns", "sent=final"]
    status, out, _ = redline(*arguments, *mapped)
    assert status == 0
    assert out.split() == ["1", "rows", "1", "corrections", "kept"]
    assert (
        redline("label", tmp_path / "e.jsonl", "--out", tmp_path / "l.jsonl", "--tokenizer", "whitespace")[0]
        == 0
    )
    status, _, err = redline(*arguments)
    assert status == 2
    assert "no column `draft`. There are: vorschlag, final, n" in err
    with pytest.raises(UserError, match="no correction in it"):
        import_log(write(tmp_path / "same.jsonl", [row(1)]), tmp_path / "none.jsonl")
