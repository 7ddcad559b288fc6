"""Figures that should not be believed too soon say so, in the terminal and on the page, and what to do."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from redline.report.folder import RunFolder
from redline.report.page import write_report
from redline.report.sanity import headline, sanity
from redline.report.summary import print_summary

Json = dict[str, Any]


def change(run: Path, name: str, how: Callable[[Json], object]) -> None:
    found = json.loads((run / name).read_text())
    how(found)
    (run / name).write_text(json.dumps(found))


def lines_of(run: Path) -> str:
    return "\n".join(sanity(RunFolder(run)))


def test_a_sound_run_asks_for_nothing(run: Path) -> None:
    assert "too few" not in lines_of(run)
    assert "chance" not in lines_of(run)


def test_answers_that_became_alike_are_said(run: Path) -> None:
    """A word in 71 of 140 answers after, in 10 before: no measure of one set sees it."""
    verdicts = [
        {
            "id": str(index),
            "prompt": f"Opening {index}",
            "a": f"So glad it is {'happy' if index < 71 else 'late'}, number {index}.",
            "b": f"It is {'happy' if index < 10 else 'late'}, number {index}.",
            "preference": 1.0,
        }
        for index in range(140)
    ]
    (run / "compare/verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    assert "“happy” is in 71 of 140 answers (10 before)" in lines_of(run)
    assert "“so glad” begins 140 of 140 answers (0 before)" in lines_of(run)
    page = write_report(run).read_text(encoding="utf-8")
    assert "The text has not degenerated" not in page
    assert "may have degenerated: the answers have become alike" in page
    assert '<th scope="row" dir="auto">happy</th><td>10</td><td>71</td>' in page
    assert '<th scope="row" dir="auto">so glad</th><td>0</td><td>140</td>' in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 2, "win_rate": 1.0, "ci95": [1.0, 1.0], "sign_test_p": 0.5}, "2 held-out prompts are too few"),
        ({"perplexity_a": 40.0, "perplexity_b": 10.0}, "rose 4.0 times"),
        ({"perplexity_a": 4.0, "perplexity_b": 10.0}, "fell 2.5 times"),
        ({"mean_length_a": 300.0, "mean_length_b": 100.0}, "have become longer: 100 characters before, 300"),
        ({"mean_length_a": 30.0, "mean_length_b": 100.0}, "have become shorter"),
    ],
)
def test_a_comparison_that_cannot_be_trusted(run: Path, changes: Json, said: str) -> None:
    change(run, "winrate.json", lambda found: found.update(changes))
    assert said in lines_of(run)
    assert said in write_report(run).read_text()
    out = io.StringIO()
    print_summary(run, run / "report.html", Console(file=out, width=200, highlight=False))
    assert said in out.getvalue()


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ({"pairwise_accuracy": 0.55}, "hardly beats chance: it prefers the better side of 55%"),
        ({"auc": 0.52}, "its AUC on 8 held-out edits is 0.52"),
    ],
)
def test_a_reward_model_that_hardly_beats_chance(run: Path, quality: Json, said: str) -> None:
    change(run, "reward/metrics.json", lambda found: found["test"].update(quality))
    assert said in lines_of(run)


def test_edits_that_are_not_minimal(run: Path) -> None:
    rows = [
        {"id": str(n), "prompt": "p", "rejected": "one two three four", "edited": "five six seven four"}
        for n in range(5)
    ]
    (run / "data/edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "The edits are not minimal: their median changes 75% of the words" in lines_of(run)


def test_a_judge_that_likes_what_the_reward_likes(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "compare/verdicts.jsonl").read_text().splitlines()]
    for name, sign in (("policy", 1), ("reference", -1)):
        scores = [
            {
                "id": row["id"],
                "rewards": [sign * (row["preference"] - 0.5)],
                "text": "",
                "offsets": [],
            }
            for row in rows
        ]
        path = run / f"compare/{name}.scores.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in scores))
    assert "The judge likes what the reward likes: they agree on 36 of 36 prompts" in lines_of(run)


def test_after_sft_the_start_is_named(run: Path) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "sft: {}\n")
    assert "compared with the model after SFT" in lines_of(run)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"win_rate": 1.0, "ci95": [1.0, 1.0], "sign_test_p": 0.5}, "No difference is shown"),
        ({"win_rate": 0.6, "ci95": [0.48, 0.7], "sign_test_p": 0.04}, "No difference is shown"),
        ({"win_rate": 0.8, "ci95": [0.7, 0.9], "sign_test_p": 0.001}, "The policy is better"),
        ({"win_rate": 0.2, "ci95": [0.1, 0.3], "sign_test_p": 0.001}, "The policy is worse"),
    ],
)
def test_a_headline_says_what_the_interval_allows(run: Path, result: Json, said: str) -> None:
    assert headline(result) == said
    change(run, "winrate.json", lambda found: found.update(result))
    page = write_report(run).read_text()
    assert ('class="figure none"' in page) == (said == "No difference is shown")
