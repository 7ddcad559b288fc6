"""The end of a run in the terminal."""

import io
import json
from pathlib import Path

from rich.console import Console

from redline.report.summary import print_summary


def printed(run: Path) -> str:
    out = io.StringIO()
    print_summary(
        run, run / "report.html", Console(file=out, force_terminal=True, width=160, highlight=False)
    )
    return out.getvalue()


def test_figures(run: Path) -> None:
    text = printed(run)
    for figure in (
        "0.800",
        "0.688 to 0.900",
        "30 wins, 4 ties, 6 losses on 40",
        "12.1",
        "11.3",
        "0.930",
        "0.910",
        "5.7 ± 0.3",
        str(run / "report.html"),
    ):
        assert figure in text, figure
    assert text.count("before  ") == text.count("after   ") == 3


def test_text_is_only_text(run: Path) -> None:
    verdicts = run / "compare/verdicts.jsonl"
    hostile = {"id": "1", "prompt": "[bold]x[/bold] [/]", "a": "\x1b[2J\x1b]0;t\x07 \ud800", "b": "\0 \u202e"}
    verdicts.write_text(json.dumps(hostile) + "\n")
    text = printed(run)
    assert "[bold]x[/bold] [/]" in text
    assert "␛[2J␛]0;t␇" in text
    assert "\x1b[2J" not in text
    assert "\0" not in text
    assert "\u202e" not in text
    assert "(no verdict)" in text


def test_without_a_comparison(run: Path) -> None:
    (run / "winrate.json").unlink()
    assert "no comparison yet" in printed(run)
