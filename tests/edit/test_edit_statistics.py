"""The figures on edits against counts made by hand, and the picture of them."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from redline.data.alignment import edit_ratio
from redline.data.records import Edit
from redline.edit.picture import picture
from redline.edit.stats import Group, show, statistics, word_changes


def edit(name: str, rejected: str, edited: str, editor: str = "ann") -> Edit:
    return Edit(id=name, prompt="Q", rejected=rejected, edited=edited, editor=editor)


TEN = "a b c d e f g h i j"
EDITS = [
    edit("same", TEN, TEN),
    edit("one", TEN, "X b c d e f g h i j"),  # 1 substituted
    edit("gone", TEN, "a b c d e f g h"),  # 2 deleted
    edit("more", TEN, "a b c d e f g h i j k l", "bob"),  # 2 inserted
    edit("mixed", TEN, "a b X Y Z e f g h i j", "bob"),  # "c d" became "X Y Z": 2 substituted, 1 inserted
    edit("all", TEN, "q r s t u v w x y z", "bob"),
    edit("one", TEN, "X b c d e f g h i j"),
    edit("twin", TEN, "X b c d e f g h i j"),
]


def test_figures_by_hand() -> None:
    figures = statistics(EDITS)
    assert figures.all.edits == 8
    assert figures.all.unchanged == 1
    assert figures.all.ratios == pytest.approx([0, 0.1, 0.2, 2 / 12, 3 / 11, 1, 0.1, 0.1])
    assert figures.all.words == {"kept": 63, "substituted": 15, "deleted": 2, "inserted": 3}
    assert {editor: group.edits for editor, group in figures.by_editor.items()} == {"ann": 5, "bob": 3}
    assert figures.by_editor["bob"].words == {"kept": 18, "substituted": 12, "deleted": 0, "inserted": 3}
    assert [line[0] for line in figures.outliers] == ["all"]
    assert figures.repeated_ids == {"one": 2}
    assert figures.repeated_texts == [["one", "one", "twin"]]


def test_histogram_has_every_edit_once() -> None:
    ratios = [0, 0.01, 0.05, 0.0500001, 0.1, 0.3, 0.95, 0.951, 1.0]
    counts = Group(ratios).histogram()
    assert len(counts) == 20
    assert {place: count for place, count in enumerate(counts) if count} == {0: 3, 1: 2, 5: 1, 18: 1, 19: 2}


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abcd")))
def test_word_changes_add_up(rejected: list[str], edited: list[str]) -> None:
    found = word_changes(rejected, edited)
    assert found["kept"] + found["substituted"] + found["deleted"] == len(rejected)
    assert found["kept"] + found["substituted"] + found["inserted"] == len(edited)
    changed = found["substituted"] + found["deleted"] + found["inserted"]
    assert changed == round(edit_ratio(rejected, edited) * max(len(rejected), len(edited)))


def test_shown_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(statistics(EDITS), "edits.jsonl", Console(width=100))
    shown = capsys.readouterr().out
    assert "8 edits, 1 of them unchanged" in shown
    assert re.search(r"0\.05-0\.10 +3 +█{40}", shown)
    assert re.search(r"bob +3 +0 +0\.480 +0\.273 +18 +12 +0 +3", shown)
    assert "1 outliers, ratio above" in shown
    assert "all (1.00)" in shown
    assert "one (2 times)" in shown
    assert "one = one = twin" in shown


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "x[/b][red]\x1b[31m:smile:"
    edits = [
        edit(odd, "a b", "a c", odd),
        edit(odd, "a b", "a c"),
        edit("y", "a b", "a c"),
        *[edit("z", "a b", "a b")] * 9,
    ]
    show(statistics(edits), odd, Console(width=150))
    shown = capsys.readouterr().out
    assert (
        shown.count("x[/b][red]␛[31m:smile:") == 7
    )  # title, editor, twice an outlier, a repeated id, twice its content
    assert "\x1b" not in shown


def test_conversations_without_an_assistant_count_whole() -> None:
    talk = [{"role": "user", "content": "a b"}, {"role": "user", "content": "c d"}]
    figures = statistics(
        [Edit(id="x", prompt="Q", rejected=talk, edited=[talk[0], {"role": "user", "content": "c e"}])]
    )
    assert figures.all.ratios == [0.25]


def test_picture_is_well_formed_and_escapes_names() -> None:
    root = ET.fromstring(picture(statistics([*EDITS, edit("x", "a b", "a c", '<script>"&')]), "a<b.jsonl"))
    names = "".join(root.itertext())
    assert '<script>"& (1 edits)' in names
    assert "a<b.jsonl: 9 edits" in names
    space = "{http://www.w3.org/2000/svg}"
    bars = [
        bar
        for bar in root.iter(f"{space}rect")
        if bar.get("class") == "edits" and float(bar.get("height", 0)) > 0
    ]
    assert len(bars) == 6
    assert not list(root.iter(f"{space}script"))
    assert all("href" not in name for node in root.iter() for name in node.attrib)


def test_one_edit_and_none() -> None:
    assert statistics(EDITS[1:2]).outliers == []
    assert ET.fromstring(picture(statistics([]), "none")).tag.endswith("svg")


def test_human_edits_are_mostly_minimal(data_dir: Path) -> None:
    """DeFacto's corrections by people: the published median word edit is about a quarter."""
    rows = [
        json.loads(line)
        for line in (data_dir / "defacto" / "val.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    figures = statistics(
        edit(str(place), row["candidate"], row["feedback"]["summary"])
        for place, row in enumerate(rows)
        if row["has_error"]
    )
    assert 0.2 < figures.all.median < 0.35
    assert figures.all.words["kept"] > figures.all.words["substituted"] + figures.all.words["deleted"]


def test_reasons_of_changes(capsys) -> None:
    """What `redline annotate` exports as reasons is counted by reason."""
    wrong = {"deleted": "Sydney", "inserted": "Canberra", "reason": "wrong fact"}
    missing = {"deleted": "", "inserted": "not", "reason": "missing"}
    given = [[wrong, missing], [wrong, wrong], "somebody's own key", [{"no": "reason"}]]
    edits = [
        Edit.model_validate(
            {"id": str(n), "prompt": "p", "rejected": "a b", "edited": f"a {n}", "reasons": reasons}
        )
        for n, reasons in enumerate(given)
    ]
    figures = statistics(edits)
    assert {name: (one.changes.total(), one.edits) for name, one in figures.by_reason.items()} == {
        "wrong fact": (3, 2),
        "missing": (1, 1),
    }
    show(figures, "edits", Console(width=120))
    shown = capsys.readouterr().out
    assert "Sydney -> Canberra (3)" in shown
    assert "(nothing) -> not (1)" in shown
