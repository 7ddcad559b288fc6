"""Arms side by side, against figures worked out by hand; and the page, in a real browser."""

import io
import json
import random
from pathlib import Path

import pytest
import yaml
from made_up import experiment, result, write
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from accessibility import violations
from redline.cli import app
from redline.errors import UserError
from redline.experiment.arms import cells
from redline.experiment.command import print_summary
from redline.experiment.recipe import Experiment
from redline.experiment.results import Point
from redline.experiment.summary import at_level, summarise
from redline.report.experiment import write_experiment, write_page


def test_paired_differences_at_the_end_and_at_equal_kl(tmp_path):
    made = experiment(["a", "b"], [0, 1])
    asked = cells(made, tmp_path)
    curves = {
        ("a", 0): [(0, 0.5), (4, 0.9)],
        ("a", 1): [(0, 0.5), (1, 0.6)],
        ("b", 0): [(0, 0.5), (4, 0.7)],
        ("b", 1): [(0, 0.5), (3, 0.8)],
    }
    won = {("a", 0): 0.9, ("a", 1): 0.6, ("b", 0): 0.7, ("b", 1): 0.8}
    summary = summarise(
        made, asked, [result(cell, won[cell.arm, cell.seed], curves[cell.arm, cell.seed]) for cell in asked]
    )

    found = {(row["judge"], row["kl"]): row for row in summary["differences"]}
    end = found["vader", None]
    assert (end["seeds"], end["prompts"], end["by_seed"]) == ([0, 1], 20, pytest.approx([0.2, -0.2]))
    assert end["difference"] == pytest.approx(0)
    assert end["ci95"][0] < -0.15
    assert end["ci95"][1] > 0.15
    at_two = found["vader", 2.0]  # seed 1 of arm a never comes to KL 2
    assert at_two["seeds"] == [0]
    assert at_two["difference"] == pytest.approx((0.4 - 0.2) * (2 / 4) ** 0.5)  # gold grows as the root of KL
    assert ("vader", 9.0) not in found

    first, second = summary["arms"]
    assert [row["seeds"] for row in first["gold_at_kl"]] == [1, 0]
    assert [row["seeds"] for row in second["gold_at_kl"]] == [2, 0]
    assert second["gold_at_kl"][0]["win_rate"] == pytest.approx(
        0.5 + (0.2 * (2 / 4) ** 0.5 + 0.3 * (2 / 3) ** 0.5) / 2
    )
    assert first["win_rates"]["vader"]["win_rate"] == pytest.approx(0.75)
    assert first["price"] == [
        {"gold": 0.6, "seeds": 2, "samples": pytest.approx((8 + 32) / 2), "seconds": pytest.approx(6.25)}
    ]
    assert first["seconds_total"] == 160


def test_runs_that_are_not_there_are_named(tmp_path):
    made = experiment(["a", "b"], [0, 1])
    asked = cells(made, tmp_path)
    summary = summarise(made, asked, [result(asked[0], 0.6, [(0, 0.5), (3, 0.6)])])
    assert [row["arm"] for row in summary["arms"]] == ["a"]
    assert summary["unfinished"] == ["a, seed 1", "b, seeds 0, 1"]
    assert summary["differences"] == []
    assert summarise(made, asked, [])["arms"] == []


def test_an_arm_that_always_wins_is_not_certain_to(tmp_path):
    made = experiment(["a", "b"], [0, 1])
    summary = summarise(
        made, asked := cells(made, tmp_path), [result(cell, 1.0, [(0, 0.5), (4, 0.9)]) for cell in asked]
    )
    low, high = summary["arms"][0]["win_rates"]["vader"]["ci95"]
    assert (low, high) == (pytest.approx(0.832, abs=0.001), 1.0)  # 20 of 20
    assert summary["differences"][0]["ci95"] == [
        pytest.approx(-0.168, abs=0.001),
        pytest.approx(0.168, abs=0.001),
    ]


def test_names_are_no_markup(tmp_path):
    made = experiment(["a"], [0]).model_copy(update={"name": "half[/x] [bold]way"})
    summary = summarise(made, asked := cells(made, tmp_path), [result(asked[0], 0.6, [(0, 0.5), (3, 0.6)])])
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=160))
    assert "half[/x] [bold]way" in out.getvalue()


def test_what_an_arm_changes_is_shown_whole(tmp_path):
    made = experiment(["a"], [0]).model_copy(update={"arms": {"a": {"direct": {"method": "sft"}}}})
    page = write_experiment(write(tmp_path / "made-up", made, cells(made, tmp_path), [])).read_text()
    assert ">direct: {method: sft}<" in page


def test_a_prompt_without_a_verdict_is_left_out_of_what_it_would_be_in():
    curve = [Point(0.0, 0.5, preferences={"x": 0.5, "y": 0.5}), Point(2.0, 1.0, preferences={"x": 1.0})]
    assert at_level(curve, 1.0) == {"x": pytest.approx(0.5 + 0.5 * 0.5**0.5)}
    assert at_level(curve, 0.0) == {"x": 0.5, "y": 0.5}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of an experiment of many arms whose curves differ; one run is missing, and one name is
    hostile."""
    random.seed(2)
    names = [
        "sequence-original",
        "sequence-edited",
        "token",
        "last",
        "uniform",
        "shuffled",
        "discrete",
        "pairwise",
        "token-and-sequence",
        "sft",
        "dpo",
        "figa",
        "best-of-16",
    ]
    made = experiment(names, [0, 1, 2, 3, 4])
    asked = cells(made, tmp_path / "made-up")
    results = []
    for cell in asked[:-1]:
        lift = 0.03 * names.index(cell.arm)
        curve = [
            (0.0, 0.5),
            *(
                (step * 1.1 + random.random(), min(0.95, 0.5 + 0.06 * step + lift * random.random()))
                for step in range(1, 6)
            ),
        ]
        results.append(result(cell, curve[-1][1], curve, 150 + 40 * random.random()))
    folder = write(tmp_path / "made-up", made, asked, results)
    recipe = yaml.safe_load((folder / "experiment.yaml").read_text())
    recipe["arms"]["token"] = {"reward.loss": "<script>document.title='broken in'</script>"}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert json.loads((folder / "summary.json").read_text())["unfinished"]
    return folder


LOOKS = [(width, scheme) for width in (1200, 390) for scheme in ("light", "dark")]


def test_page_in_a_browser(finished, chromium):
    page = write_page(finished)  # what `redline report` writes
    assert page == finished / "report.html"
    assert page.stat().st_size < 3_000_000
    for width, scheme in LOOKS:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
        )
        tab = context.new_page()
        said, asked = [], []
        tab.on("console", lambda message, said=said: said.append(message.text))
        tab.on("pageerror", lambda error, said=said: said.append(str(error)))
        tab.on("request", lambda request, asked=asked: asked.append(request.url))
        tab.goto(page.as_uri())
        assert said == []
        assert asked == [page.as_uri()]
        assert tab.title() == "made-up · Redline experiment"
        assert tab.locator("figure").count() == 3 * 13
        assert tab.locator("#arms table").first.locator("tbody tr").count() == 13
        assert "best-of-16, seed 4" in tab.locator(".lead").inner_text()
        assert (
            tab.evaluate("document.documentElement.scrollWidth") <= width
        )  # wide tables scroll in themselves
        tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert violations(tab) == [], (width, scheme)
        context.close()


def test_two_judges_of_one_name_are_refused():
    judges = [
        {"judge": "m", "base_url": "http://localhost/v1", "verdict": verdict} for verdict in ("json", "token")
    ]
    with pytest.raises(ValidationError, match="names m twice"):
        Experiment.model_validate({"base": "b.yaml", "arms": {"a": {}}, "judges": judges})


def test_a_folder_without_results_is_said(tmp_path):
    with pytest.raises(UserError, match=r"has no summary\.json"):
        write_experiment(tmp_path)


def test_help_has_an_example():
    assert (
        "redline experiment recipes/experiment-cad.yaml"
        in CliRunner().invoke(app, ["experiment", "--help"]).stdout
    )
