"""The page for everybody: axe, contrast, Tab stops, and its height on a phone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accessibility import luminance_contrast, violations
from redline.report.page import write_report
from redline.report.rounds import write_rounds

PHONE_SCREENS = 10
LOOKS = [
    (width, height, scheme) for width, height in ((1280, 800), (390, 844)) for scheme in ("light", "dark")
]
OPEN_ALL = "document.querySelectorAll('details').forEach(part => part.open = true)"
COLOURS = """() => [...document.querySelectorAll('svg text')].map(text => [
    getComputedStyle(text).fill, getComputedStyle(document.body).backgroundColor])"""


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0]}-{look[2]}")
def window(request: pytest.FixtureRequest, chromium: Any) -> Iterator[Any]:
    """An empty page in a window of a size and a scheme."""
    width, height, scheme = request.param
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True
    )
    yield context.new_page()
    context.close()


def test_no_violation(window: Any, run: Path) -> None:
    window.goto(write_report(run).as_uri())
    _is_for_everybody(window)


def test_no_violation_on_the_page_of_rounds(window: Any, tmp_path: Path) -> None:
    rounds = [
        {
            "round": number,
            "edits": 1000 * number,
            "new": 400,
            "over_first": 0.5 + 0.1 * number,
            "over_first_ci95": [0.45 + 0.1 * number, 0.55 + 0.1 * number],
            "over_last": 0.6,
            "over_last_ci95": [0.55, 0.65],
        }
        for number in range(1, 5)
    ]
    (tmp_path / "rounds.json").write_text(json.dumps({"rounds": rounds}))
    window.goto(write_rounds(tmp_path).as_uri())
    _is_for_everybody(window)
    assert window.locator("tbody tr").count() == 4
    assert window.locator("figure:visible").count() == 1


def _is_for_everybody(page: Any) -> None:
    """No violation, nothing that sticks out, and letters in drawings that can be read."""
    page.evaluate(OPEN_ALL)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    colours = page.evaluate(COLOURS)  # axe does not look into drawings
    assert colours
    assert min(luminance_contrast(text, paper) for text, paper in colours) >= 4.5


def test_one_tab_stop_a_text(run: Path, chromium: Any) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(write_report(run).as_uri())
    texts = page.locator(".tokens").count()
    assert page.locator(".t").count() > 20 * texts
    assert page.locator(".tokens [tabindex], .tokens summary").count() == texts
    context.close()


def test_fits_ten_phone_screens(run: Path, chromium: Any) -> None:
    with (run / "policy/log.jsonl").open("a") as log:  # with a judge that watched
        line = {"update": 13, "gold": 0.7, "gold_error": 0.1, "gold_kl": 3.0, "gold_proxy": 1.0}
        log.write(json.dumps(line) + "\n")
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(write_report(run).as_uri())
    assert page.locator("#policy figure:visible").count() == 4
    assert page.evaluate("document.documentElement.scrollHeight") <= PHONE_SCREENS * 844
    context.close()


def test_date_and_machine_stand_in_the_head(run: Path) -> None:
    assert 'class="when"' not in write_report(run).read_text(encoding="utf-8")  # an earlier version's run
    (run / "started.json").write_text('{"date": "2026-11-29"}')
    state = json.loads((run / "state.json").read_text())
    for stage in state.values():
        stage |= {"date": "2026-11-30", "machine": "NVIDIA H200, Linux"}
    state["data"]["machine"] = "Some <processor>, 2 cores, Linux"
    (run / "state.json").write_text(json.dumps(state))
    page = write_report(run).read_text(encoding="utf-8")
    head = page.partition("<main>")[0]
    machines = "Some &lt;processor&gt;, 2 cores, Linux and NVIDIA H200, Linux"
    assert f"2026-11-29 to 2026-11-30, on {machines}." in head
