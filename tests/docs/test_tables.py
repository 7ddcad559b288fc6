"""Every table in docs/ that a script writes equals what its result files give now."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmarks(monkeypatch) -> None:
    """The folder of the benchmark scripts, from which they import each other."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])


def in_page(name: str, page_name: str = "results.md") -> str:
    """What stands between the two marks of a table in a page of docs/."""
    page = (ROOT / "docs" / page_name).read_text(encoding="utf-8")
    after = page.partition(f"<!-- {name}: written by ")[2].partition("-->\n")[2]
    return after.partition(f"<!-- end of {name} -->")[0]


@pytest.mark.parametrize("name", ["experiment-cad", "experiment-cad-128", "experiment-paradetox"])
def test_the_experiments_tables(benchmarks, name):
    import experiment

    folder = ROOT / "benchmarks" / "results" / name
    summary, results = experiment.kept(folder)
    again = experiment.read_kept([result.cell for result in results], folder / "again")
    assert in_page(name) == experiment.tables(summary, results) + experiment.twice(results, again)


def test_the_table_of_reward_models(benchmarks):
    import reward_quality

    rows = reward_quality.summarise(reward_quality.finished())
    assert in_page("reward-quality") == reward_quality.written(rows)


def test_the_table_of_families(benchmarks):
    import families

    content = json.loads(families.RESULTS.read_text(encoding="utf-8"))
    assert in_page("families", "models.md") == families.written(content)
