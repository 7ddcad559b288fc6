"""The lead's pages, practice and guidelines at a real browser; every page at desktop and phone width,
light and dark, with no violation that axe finds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from browsing import LocalServer, Look, Tab, database, every_look, fits, follow, select_text, text_of, until

from accessibility import violations
from redline.annotate import people, practice
from redline.annotate.handout import next_work
from redline.annotate.intake import add_pairs, set_up
from redline.annotate.submissions import Submission, skip, submit
from redline.data.check import Rejects
from redline.data.records import Edit, ToEdit

SYDNEY = "The capital of Australia is Sydney, a town of some size and fame."
CANBERRA = SYDNEY.replace("Sydney", "Canberra")
PERTH = SYDNEY.replace("Sydney", "Perth")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    """A project in the middle of its work: two practice items, edits of ada and ben, a skip, reasons."""
    engine = database(tmp_path)
    set_up(engine, "edit", "Correct **what is false**.", None, 0.5, None, 2, ["wrong fact", "missing"])
    pairs = [
        ToEdit(id=f"p{n}", prompt=f"Question {n}", rejected=SYDNEY, chosen="Canberra.") for n in range(6)
    ]
    add_pairs(engine, pairs, Rejects())
    ada, ben = (people.ensure(engine, name) for name in ("ada", "ben"))
    reason = {"number": 0, "deleted": "Sydney", "inserted": "Canberra", "reason": "wrong fact"}
    for person, text in ((ada, CANBERRA), (ben, PERTH)):
        for number in range(3):
            current = next_work(engine, person, 60)
            assert current
            if number == 2:
                skip(engine, current.id, person, "not my field", current.revision)
                continue
            reasons = [reason] if person == ada else []
            sent = Submission("edited", text, "checked", 5, current.revision, reasons=reasons)
            submit(engine, current.id, person, sent)
    known = {"id": "k0", "prompt": "Practice", "rejected": SYDNEY, "edited": CANBERRA}
    explanation = "Canberra has been the **capital** since 1913."
    practice.add_practice(
        engine, "edit", [Edit.model_validate(known | {"explanation": explanation})], Rejects()
    )
    started = LocalServer(engine, ["ada", "ben", "cyd"])
    yield started
    started.stop()


@every_look
def test_the_lead_at_work(chromium: Any, server: LocalServer, tmp_path: Path, look: Look) -> None:
    tab, annotator = Tab(chromium, server, look), Tab(chromium, server, look)
    page = tab.open(server.links["admin"])
    # a made link survives a reload
    page.fill("#name", "eve")
    follow(page, "text=Make a link")
    link = page.input_value(".link-field")
    page.reload()
    assert page.input_value(".link-field") == link
    follow(page, "text=Put away")
    assert page.locator(".link-field").count() == 0

    # from the list to an item, by its filters
    follow(page, "nav >> text=Items")
    page.select_option("[name=state]", "skipped")
    follow(page, "text=Show")
    assert page.locator("tbody tr").count() >= 1
    follow(page, "tbody th a")
    assert "not my field" in page.inner_text("main"), "notes of skipped items, too"
    page.goto(f"{server.base}/admin/items?reason=wrong+fact")
    follow(page, "tbody th a")
    assert page.locator(".works .redline ins").first.inner_text() == "Canberra"
    assert "Sydney → Canberra: wrong fact" in page.inner_text(".reasons")

    # send back, with a reason that the author sees
    card = page.locator(".work-card", has=page.locator("h3:has-text('ada')"))
    key = page.inner_text("h1")
    card.locator("[name=why]").fill("Look at its size.")
    with page.expect_navigation():
        card.locator("text=Send >> nth=-1").click()
    assert "sent back" in page.inner_text(".works")
    theirs = annotator.open(server.links["ada"])
    until(theirs, "document.querySelector('.cm-content')")  # practice comes first
    select_text(theirs, "Sydney")
    theirs.keyboard.type("Canberra")
    theirs.keyboard.press("Control+Enter")
    theirs.wait_for_selector("#told:has-text('the same changes')")
    assert "since 1913" in theirs.inner_text("main")
    theirs.click("text=Go on")
    until(theirs, "document.querySelector('.banner.warn')?.textContent.includes('Look at its size.')")
    assert text_of(theirs) == CANBERRA
    select_text(theirs, "size")
    theirs.keyboard.type("width")
    theirs.keyboard.press("Control+Enter")
    until(theirs, "!document.querySelector('.banner.warn')")
    annotator.close()

    # choose one, take it back, make a third
    page.reload()
    assert page.inner_text("h1") == key
    follow(page, "text=Choose this one >> nth=0")
    page.wait_for_selector(".gold")
    record = next(one for one in server.exported(tmp_path) if one["id"] == key)
    assert record["gold"]["by"] == "admin"
    follow(page, "text=Take the decision back")
    page.wait_for_selector(".gold", state="detached")
    follow(page, "text=Make your own edit")
    until(page, "document.querySelector('.cm-content')")
    select_text(page, "Sydney")
    page.keyboard.type("Darwin")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".gold ins:has-text('Darwin')")
    record = next(one for one in server.exported(tmp_path) if one["id"] == key)
    assert (record["edited"], record["editor"]) == (SYDNEY.replace("Sydney", "Darwin"), "admin")
    history = page.inner_text(".history")
    for part in (
        "ada submitted",
        "admin sent back",
        "Look at its size.",
        "admin decided",
        "took the decision back",
    ):
        assert part in history

    # assign, and what practice taught
    page.goto(f"{server.base}/admin/items?state=open")
    page.select_option("[name=to]", label="cyd")
    follow(page, "button:text-is('Assign')")
    assert "changed hands" in page.inner_text("main")
    page.goto(f"{server.base}/admin")
    assert "the same changes" in page.inner_text("main")

    # a link is taken back only after asking
    follow(page, "tr:has-text('eve') >> text=Take back")
    assert "Take back the link of eve?" in page.inner_text("h1")
    follow(page, "text=Leave it")
    assert people.holder(server.engine, link.rpartition("/")[2])
    follow(page, "tr:has-text('eve') >> text=Take back")
    follow(page, "button:has-text('Take it back')")
    assert people.holder(server.engine, link.rpartition("/")[2]) is None
    tab.close()


@every_look
def test_guidelines_open_the_first_time(chromium: Any, server: LocalServer, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links["cyd"], guidelines=True)
    assert page.inner_text("#guidelines strong") == "what is false"
    with page.expect_response("**/api/guided"):
        page.keyboard.press("Escape")
    page.wait_for_selector("#guidelines", state="hidden")
    page.reload()
    until(page, "true")
    assert page.locator("#guidelines[open]").count() == 0
    tab.close()


@every_look
def test_no_violation_on_any_page(chromium: Any, server: LocalServer, look: Look, pictures: Path) -> None:
    tab = Tab(chromium, server, look)
    found: dict[str, list[str]] = {}

    def check(name: str) -> None:
        fits(page)
        page.screenshot(path=pictures / f"annotate-{name}-{look}.png")
        if wrong := violations(page):
            found[f"{name}-{look}"] = wrong

    page = tab.open(server.links["ada"], guidelines=True)
    check("guidelines")
    page.keyboard.press("Escape")
    until(page, "document.querySelector('.cm-content')")
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    select_text(page, "town")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("very big ")
    page.keyboard.press("Alt+n")
    page.wait_for_selector("#changes-list li >> nth=1")
    page.wait_for_selector("#saved:text('Saved')")
    check("edit")
    page.keyboard.press("Alt+t")
    page.wait_for_selector("#redline ins")
    check("plain")
    page.keyboard.press("Alt+h")
    check("keys")
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+t")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#told")
    check("practice")
    page.click("text=Go on")
    until(page, "document.querySelector('.cm-content')")
    page.keyboard.press("Alt+f")
    page.wait_for_selector(".toast")
    check("toast")
    page.goto(f"{server.base}/mine")
    check("mine")
    while page.goto(f"{server.base}/") and page.locator(".cm-content, #field").count():
        until(page, "true")
        page.keyboard.press("Alt+s")
        page.wait_for_selector(".toast, h1:has-text('That is all')")
        page.wait_for_load_state()
    check("finished")
    page.goto(server.links["ben"])
    page.wait_for_selector("#stay a")
    check("another")
    page.goto(f"{server.base}/nowhere")
    check("missing")
    tab.problems = [text for text in tab.problems if "404" not in text]
    page = tab.open(server.links["admin"])
    page.fill("#name", "eve")
    follow(page, "text=Make a link")
    page.wait_for_selector(".link-field")
    check("lead")
    page.goto(f"{server.base}/admin/items")
    check("items")
    follow(page, "tbody th a")
    page.wait_for_selector(".works .redline ins")
    check("item")
    follow(page, "text=Make your own edit")
    until(page, "document.querySelector('.cm-content')")
    check("decide")
    page.goto(f"{server.base}/admin")
    follow(page, "text=Take back… >> nth=0")
    check("revoke")
    assert not found, json.dumps(found, indent=1)
    tab.close()
