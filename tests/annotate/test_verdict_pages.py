"""Blind comparison and thumbs at a real browser, with their practice and the lead's pages of them."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from browsing import LocalServer, Look, Tab, database, every_look, fits, follow, nothing_is_sent, until

from accessibility import violations
from redline.annotate import practice
from redline.annotate.intake import add_comparison, add_responses, set_up
from redline.annotate.practice import KnownComparison, KnownThumb
from redline.data.check import Rejects
from redline.data.records import Record, Response

LONG = "long text\n\n" * 60
KNOWN: dict[str, Record] = {
    "compare": KnownComparison(id="known", prompt="Practice", a="known good", b="known bad", preference=1),
    "feedback": KnownThumb(id="known", prompt="Practice", response="known bad", liked=False),
}


@pytest.mark.parametrize("kind", ["compare", "feedback"])
@every_look
def test_comparison_and_thumbs(chromium: Any, tmp_path: Path, look: Look, kind: str, pictures: Path) -> None:
    engine = database(tmp_path)
    set_up(engine, kind, None, None, 0.0, None)
    a = [Response(id=f"r{n}", prompt=f"Q{n}", response=f"from a {n}\n\n{LONG}") for n in range(2)]
    if kind == "compare":
        b = [Response(id=f"r{n}", prompt=f"Q{n}", response=f"from b {n}") for n in range(2)]
        add_comparison(engine, a, b, Rejects())
    else:
        add_responses(engine, a, Rejects())
    practice.add_practice(engine, kind, [KNOWN[kind]], Rejects())
    server = LocalServer(engine, ["ada"])
    tab = Tab(chromium, server, look)
    page = tab.open(server.links["ada"])

    def check(name: str = "") -> None:
        fits(page)
        page.screenshot(path=pictures / f"annotate-{kind}{name}-{look}.png")
        assert violations(page) == []

    assert "Practice" in page.inner_text("main .banner")
    seen = page.locator(".sides .panel").all_inner_texts()
    page.click("[data-act=right]")
    page.wait_for_selector("#told")
    told = page.inner_text("#told")
    if kind == "feedback":
        assert told == "Your answer: thumb up. The known answer: thumb down."
    elif "good" in seen[1]:
        assert told == "Correct: the right (second) response is better."
    else:
        left = "the left (first) response is better"
        assert told == f"Your answer: the right (second) response is better. The known answer: {left}."
    if kind == "compare":
        assert "your choice" in page.locator(".sides .panel").nth(1).inner_text()
        assert "known good" in page.locator(".panel:has(.known)").inner_text()
    check("-practice")

    # scrolling keys scroll, and record nothing
    page.click("text=Go on")
    until(page, "document.querySelector('[data-act=right]')")
    page.keyboard.press("ArrowDown")
    until(page, "scrollY > 0")
    for key in ("ArrowLeft", "ArrowRight", "1", "2", "3", "f"):
        page.keyboard.press(key)
    nothing_is_sent(page)
    assert server.exported(tmp_path) == []
    page.evaluate("scrollTo(0, 0)")
    check()
    page.click("[data-act=right]")
    page.wait_for_selector(".toast")
    (record,) = server.exported(tmp_path)
    if kind == "feedback":
        assert (record["liked"], record["response"]) == (True, a[0].response)

    # a reopened one shows what was chosen
    page.goto(f"{server.base}/mine")
    fits(page)
    follow(page, "td a[href^='/work']")
    until(page, "document.querySelector('[data-act=right]').getAttribute('aria-pressed') === 'true'")
    check("-again")
    if kind == "compare":
        assert page.locator(".sides .preferred").count() == 1
        names = page.locator(".sides h2").all_inner_texts()
        expected = ["First", "Second"] if look.phone else ["Left", "Right"]
        assert [name.split()[0] for name in names] == expected

    # the lead's pages of it
    page.goto(server.links["admin"])
    follow(page, "#enter button")  # this browser was ada's
    page.wait_for_url("**/admin")
    check("-lead")
    follow(page, "#recent h3 a")
    page.wait_for_selector(".work-card")
    check("-item")
    tab.close()
    server.stop()
