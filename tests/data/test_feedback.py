"""Thumbs: our own format, TRL's unpaired one, and what cannot be used."""

import json

import pytest

from redline.data.check import Rejects
from redline.data.read import read
from redline.data.records import Feedback
from redline.data.settings import Source
from redline.errors import UserError


def load(path, lines, **source):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with Rejects() as rejects:
        return list(read(Source(path=str(path), **source), Feedback, rejects)), rejects


def test_our_format_and_trls_give_the_same(tmp_path):
    ours = [{"id": "1", "prompt": "a", "response": " b", "liked": True}]
    trls = [{"id": "1", "prompt": "a", "completion": " b", "label": True}]
    chat = [
        {
            "prompt": [{"role": "user", "content": "a"}],
            "completion": [{"role": "assistant", "content": "b"}],
            "label": False,
        }
    ]
    [one], [other], [talk] = (load(tmp_path / "f.jsonl", lines)[0] for lines in (ours, trls, chat))
    assert one == other == Feedback(id="1", prompt="a", response=" b", liked=True)
    assert talk.liked is False
    assert talk.response == chat[0]["completion"]


def test_people_may_disagree_and_repeat_themselves(tmp_path):
    line = {"prompt": "a", "response": " b"}
    records, rejects = load(
        tmp_path / "f.jsonl", [{**line, "liked": True}, {**line, "liked": False}, {**line, "liked": True}]
    )
    assert [record.liked for record in records] == [True, False]
    assert dict(rejects.counts) == {"same content as an earlier record": 1}


def test_what_is_no_thumb(tmp_path):
    line = {"prompt": "a", "response": " b"}
    records, rejects = load(tmp_path / "f.jsonl", [{**line, "liked": "maybe"}, {**line, "liked": 1}])
    assert len(records) == rejects.total == 1
    with pytest.raises(UserError, match="no column `liked`"):
        load(tmp_path / "f.jsonl", [line])
    assert load(tmp_path / "f.jsonl", [{**line, "up": True}], columns={"liked": "up"})[0][0].liked
