"""Every table in docs/ that a script writes equals what its result files give now."""

import importlib
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


def test_the_table_of_baselines(benchmarks):
    import baselines

    content = json.loads(baselines.RESULTS.read_text(encoding="utf-8"))
    assert in_page("baselines", "policy.md") == baselines.written(content)


@pytest.mark.parametrize(("name", "script"), [("vllm", "vllm_quickstart"), ("ahead", "ahead")])
def test_the_tables_of_the_vllm_server(benchmarks, name, script):
    module = importlib.import_module(script)
    content = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    assert in_page(name, "scale.md") == module.written(content)


def test_the_table_of_families(benchmarks):
    import families

    content = json.loads(families.RESULTS.read_text(encoding="utf-8"))
    assert in_page("families", "models.md") == families.written(content)


def test_the_sweep_of_families_goes_on_and_mixes_no_commits(benchmarks, tmp_path):
    import families

    path = tmp_path / "families.json"
    content = families.begun(path, again=[])
    assert content["families"] == []
    content["families"] = [{"family": "llama", "policy": "view"}]
    families.write(content, path)
    assert families.begun(path, again=[]) == content
    assert "llama" not in families.missing(content)
    assert "olmo2" in families.missing(content)

    content["versions"]["redline"] = "0000000"
    families.write(content, path)
    assert families.begun(path, again=[])["families"] == []
    with pytest.raises(SystemExit, match="its lines are of commit 0000000"):
        families.begun(path, again=["llama"])


def test_the_table_of_starts(benchmarks):
    import starts

    assert in_page("starts", "models.md") == starts.written(starts.finished())
