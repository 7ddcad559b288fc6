"""The gold score on a run's page: curves, the warning, and a judge that failed."""

import json
from pathlib import Path
from typing import Any

from redline.report.folder import RunFolder
from redline.report.gold import gold
from redline.report.page import write_report


def watched(run: Path, **last: Any) -> None:
    """Give the made-up run a judge's measurements at updates 4, 8 and 12, the last one changed."""
    log = [json.loads(line) for line in (run / "policy/log.jsonl").read_text().splitlines()]
    for update, score in ((4, 0.75), (8, 0.5), (12, 0.25)):
        log[update - 1] |= {
            "gold": score,
            "gold_error": 0.05,
            "gold_proxy": 0.2 * update,
            "gold_kl": 2.0 * update,
        }
    log[-1] |= last
    (run / "policy/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (run / "policy/watch").mkdir()
    (run / "policy/watch/reference.jsonl").write_text(
        "".join(
            json.dumps({"id": str(row), "prompt": "p", "response": "r", "reward": 0.5 * row}) + "\n"
            for row in range(4)
        )
    )


def test_without_a_judge_nothing_is_said(run: Path) -> None:
    assert "gaming" not in write_report(run).read_text(encoding="utf-8")


def test_curves_begin_at_the_reference(run: Path) -> None:
    watched(run)
    folder = RunFolder(run)
    found = gold(folder, folder.lines(folder.files.policy.log))
    assert found is not None
    assert (found["judge"], found["prompts"], found["warning"]) == ("vader", 4, None)
    against_updates, proxy, against_kl, _ = found["charts"]
    assert "update 0: 0.5000" in against_updates
    assert "update 12: 0.2500" in against_updates
    assert "update 0: 0.7500" in proxy  # the mean of the reference's rewards
    assert "KL, nats 8.00: 0.7500" in against_kl
    assert "mark" not in against_updates
    page = write_report(run).read_text(encoding="utf-8")
    assert "vader compared the policy with the model it started from on 4 held-out prompts" in page
    assert "Warned" not in page


def test_the_warning_stands_out_and_is_escaped(run: Path) -> None:
    marks = write_report(run).read_text(encoding="utf-8").count('class="mark"')
    watched(run, warning="reward and judge part ways: <b>since</b> update 4")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Warned at update 12." in page
    assert "part ways: &lt;b&gt;since&lt;/b&gt; update 4" in page
    assert page.count('class="mark"') == marks + 4  # the first warning, in each of the four charts


def test_a_judge_that_never_answered_is_named(run: Path) -> None:
    log = (run / "policy/log.jsonl").read_text().splitlines()
    log[-1] = json.dumps(
        json.loads(log[-1])
        | {"gold_proxy": 1.0, "gold_kl": 2.0, "warning": "no gold score: cannot be reached"}
    )
    (run / "policy/log.jsonl").write_text("\n".join(log) + "\n")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Not measured at update 12: no gold score: cannot be reached" in page
