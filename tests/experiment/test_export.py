"""An experiment's table as CSV and LaTeX: the numbers of its summary."""

import csv
import sys
from pathlib import Path

import pytest

from redline.experiment.export import export_tables

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def summary(monkeypatch):
    """The summary of the runs that are kept of the CAD experiment."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import experiment

    return experiment.kept(ROOT / "benchmarks" / "results" / "experiment-cad")[0]


def test_each_arm_is_a_row_with_its_figures(summary, tmp_path):
    export_tables(summary, tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert list(rows) == [arm["arm"] for arm in summary["arms"]]
    token = next(arm for arm in summary["arms"] if arm["arm"] == "token")
    assert float(rows["token"]["win_rate vader"]) == pytest.approx(
        token["win_rates"]["vader"]["win_rate"], abs=1e-4
    )
    assert float(rows["token"]["kl"]) == pytest.approx(token["kl"], abs=1e-4)
    assert rows["sft"]["peak_gb"] == ""
    tex = (tmp_path / "summary.tex").read_text()
    assert tex.count(r"\\") == len(rows) + 1
    wins = 100 * token["win_rates"]["vader"]["win_rate"]
    assert f"token & {len(token['seeds'])} & {wins:.1f} (" in tex
