"""What people see in a terminal, and in a file; and what must not reach it."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from redline.cli import app
from redline.data.show import diff, readable, show_file, visible
from redline.errors import UserError

EDIT = {
    "id": "1",
    "prompt": "The film",
    "rejected": "It was bad, really.",
    "edited": "It was really quite good.",
}
LABELS = {
    "id": "1",
    "prompt": "p",
    "rejected_tokens": ["Ġso", "ĠðŁĺ", "Ģ", "Ċ"],
    "rejected_labels": [0, -1, -1, 0],
    "edited_tokens": ["▁so", "▁good"],
    "edited_labels": [0, 1],
    "tokenizer": "t@0",
}
SCORES = {"id": "1", "text": "so bad ok", "offsets": [[0, 2], [3, 6], [7, 9]], "rewards": [0.0, -0.5, 0.25]}


def shown(tmp_path, record, **console):
    path = tmp_path / "x.jsonl"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    out = io.StringIO()
    show_file(path, 10, Console(file=out, highlight=False, width=60, **console))
    return out.getvalue()


def test_marks_where_there_is_no_colour(tmp_path):
    assert shown(tmp_path, EDIT) == "1  The film\nIt was [-bad, really-] {+really quite good+}.\n\n"
    assert shown(tmp_path, LABELS) == "1  p\n so [-😀-]\n\n so {+good+}\n\n"
    assert shown(tmp_path, SCORES) == "1  \nso(+0.00) bad(-0.50) ok(+0.25)\n\n"


def test_the_pieces_of_an_edit_give_both_sides_back():
    pieces = list(diff(EDIT["rejected"], EDIT["edited"]))
    assert "".join(text for style, text in pieces if "green" not in style) == EDIT["rejected"]
    assert "".join(text for style, text in pieces if "red" not in style) == EDIT["edited"]


def test_colours_in_a_terminal(tmp_path):
    terminal = {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False}
    text = shown(tmp_path, EDIT, **terminal)
    assert "\x1b[9;31m bad" in text  # struck through, red
    assert "\x1b[4;32m" in text  # underlined, green
    text = shown(tmp_path, SCORES, **terminal)
    assert "\x1b[30;48;2;255;100;100mbad" in text
    assert "\x1b[30;48;2;177;255;177mok" in text  # half as large, half as green
    assert "(-0.50)" not in text


def test_text_is_neither_markup_nor_terminal_command(tmp_path):
    nasty = "[bold]x[/bold] :smile: \x1b[2J\x1b]0;title\x07 \x9b31m \u202eabc \rover"
    text = shown(
        tmp_path, EDIT | {"id": "[red]\x1b[5m", "prompt": nasty, "rejected": nasty, "edited": nasty + "."}
    )
    assert text.count("[bold]x[/bold] :smile: ␛[2J␛]0;title␇ \\u009b31m \\u202eabc") == 2
    assert "[red]␛[5m" in text
    assert not set(text) & set("\x1b\x07\x9b\u202e\r")
    assert visible("a\tb\nc\ud800") == "a\tb\nc\\ud800"
    assert visible(text) == text


def test_vocabulary_strings_become_text():
    assert readable(["na", "ïve"]) == "naïve"
    assert readable(["ðŁĺ"]) == "�"  # half of an emoji
    assert readable(["ĠfÃ¼r", "ĠðŁĺ", "Ģ"]) == " für 😀"
    assert readable(["▁über", "▁한"]) == " über 한"
    assert readable(["a", "b"], spaced=True) == "a b"


def test_broken_records_are_named_and_other_files_refused(tmp_path):
    text = shown(tmp_path, "{\n" + json.dumps(LABELS | {"rejected_labels": [5]}) + "\n" + json.dumps(SCORES))
    assert "line 1: not valid JSON" in text
    assert "line 2: rejected_labels.0" in text
    assert "bad(-0.50)" in text
    for record, message in (
        ({"a": 1}, "none of what is shown here"),
        (LABELS | {"edited_labels": []}, "2 edited tokens but 0 labels"),
        (SCORES | {"rewards": []}, "3 offsets but 0 rewards"),
    ):
        with pytest.raises(UserError, match=message):
            shown(tmp_path, record)


def test_the_command(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text("".join(json.dumps(EDIT | {"id": str(k), "edited": f"{k}"}) + "\n" for k in range(3)))
    run = CliRunner().invoke(app, ["show", str(path), "--limit", "2"])
    assert run.exit_code == 0
    assert run.stdout.count("The film") == 2


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"id": "1", "prompt": "q", "chosen": "good", "rejected": "bad"}, ["chosen  good", "rejected  bad"]),
        ({"id": "1", "prompt": "q", "response": "well"}, ["well"]),
        ({"id": "1", "prompt": "q"}, ["1  q"]),
        (
            {
                "id": "1",
                "prompt": "q",
                "a": "x",
                "b": "y",
                "preference": 1.0,
                "systems": ["policy", "reference"],
            },
            ["policy  x", "reference  y", "preference for policy: 1"],
        ),
        (
            {"reason": "too long", "file": "f", "line": 1, "record": {"id": "7", "prompt": "q"}},
            ["7  q", "too long"],
        ),
        (
            {"id": "1", "prompt": "q", "rejected": "bad", "gate": "ratio", "why": "too much", "answer": "x"},
            ["ratio: too much"],
        ),
        ({"id": "1", "text": "ab", "offsets": [[0, 2]], "rewards": [0.5], "side": "edited"}, ["1  (edited)"]),
    ],
)
def test_whatever_a_run_writes_is_shown(tmp_path, capsys, row, shown):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(row) + "\n")
    show_file(path)
    printed = capsys.readouterr().out
    for text in shown:
        assert text in printed
