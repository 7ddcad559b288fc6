"""A team's items at the lead's browser: filters, several people's answers, passing on, counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from browsing import LOOKS, LocalServer, Look, Tab, database, every_look, fits, follow, until

from accessibility import violations
from redline.annotate import lead, people
from redline.annotate.handout import next_work
from redline.annotate.intake import add_pairs, set_up
from redline.annotate.submissions import Submission, skip, submit
from redline.data.check import Rejects
from redline.data.records import ToEdit

SYDNEY = "The capital of Australia is Sydney, a town of some size and fame."
CITIES = {"ada": "Canberra", "ben": "Perth", "eve": "Darwin"}
TEAM = 66 + len(LOOKS)  # items


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """Items that three people edited differently, one for each look; one skipped; 65 that nobody began."""
    engine = database(tmp_path_factory.mktemp("team"))
    set_up(engine, "edit", "", None, 1.0, None, 3, ["wrong fact", "missing"])
    keys = [*(f"three {look}" for look in LOOKS), "skipped", *(f"free {number}" for number in range(65))]
    add_pairs(engine, [ToEdit(id=key, prompt=f"Q: {key}", rejected=SYDNEY) for key in keys], Rejects())
    for name, city in CITIES.items():
        person = people.ensure(engine, name)
        for key in keys[: len(LOOKS) + 1]:
            lead.assign(engine, lead.Filter(text=key), 1.0, person)
            current = next_work(engine, person, 60)
            assert current
            assert current.key == key
            if key == "skipped":
                skip(engine, current.id, person, "not my field", current.revision)
                break
            reason = {"number": 0, "deleted": "Sydney", "inserted": city, "reason": "wrong fact"}
            text = SYDNEY.replace("Sydney", city)
            reasons = [reason] if name == "ada" else []
            sent = Submission("edited", text, f"note of {name}", 5, current.revision, reasons=reasons)
            submit(engine, current.id, person, sent)
    started = LocalServer(engine, [*CITIES, *(f"dan {look}" for look in LOOKS)])
    yield started
    started.stop()


@every_look
def test_filters_and_pages(chromium: Any, server: LocalServer, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links["admin"])
    follow(page, "nav >> text=Items")
    assert f"{TEAM} items, page 1 of 2" in page.inner_text("main")
    follow(page, "text=After →")
    assert page.locator("tbody tr").count() == TEAM - lead.PAGE
    for field, value, count in (
        ("text", "free 64", 1),
        ("reason", "wrong fact", len(LOOKS)),
        ("person", "ben", len(LOOKS) + 1),
        ("state", "skipped", 1),
        ("disagreement", None, len(LOOKS)),
    ):
        page.goto(f"{server.base}/admin/items")
        if field == "text":
            page.fill("[name=text]", value)
        elif field == "disagreement":
            page.check("[name=disagreement]")
        else:
            page.select_option(f"[name={field}]", value)
        follow(page, "button:text-is('Show')")
        assert page.locator("tbody tr").count() == count, field
        assert page.locator("tbody th a").count() == count, "each one leads to the item's page"
    fits(page)
    tab.close()


@every_look
def test_three_answers_to_one_item(chromium: Any, server: LocalServer, tmp_path: Path, look: Look) -> None:
    tab, dan, ben = (Tab(chromium, server, look) for _ in range(3))
    page = tab.open(server.links["admin"])
    pairs = page.locator("section[aria-labelledby=agreement-title] tbody tr").all_inner_texts()
    assert {"All", "ada and ben", "ada and eve", "ben and eve"} <= {row.split("\t")[0] for row in pairs}
    page.goto(f"{server.base}/admin/items?text=three+{look}")
    follow(page, "tbody th a")
    page.wait_for_selector(".works .redline ins >> nth=2")
    assert page.locator(".works .redline ins").all_inner_texts() == list(CITIES.values())
    works = page.inner_text(".works")
    for part in ("note of ada", "note of ben", "note of eve", "UTC", "% changed"):
        assert part in works
    assert SYDNEY in page.inner_text("main")
    fits(page)
    assert violations(page) == []

    # passed on, with a reason that both see; nothing vanishes from the export
    card = page.locator(".work-card", has=page.locator("h3:has-text('ben')"))
    card.locator("[name=why]").fill("Who knows Perth?")
    card.locator("[name=to]").select_option(label=f"dan {look}")
    card.locator("button:text-is('Send')").click()
    page.wait_for_selector(".history:has-text('Who knows Perth?')")
    given = dan.open(server.links[f"dan {look}"])
    given.wait_for_selector(".banner:has-text('The lead gave you this one: Who knows Perth?')")
    fits(given)
    given.keyboard.press("Alt+f")
    given.wait_for_selector(".toast")
    author = ben.open(server.links["ben"])
    author.goto(f"{server.base}/mine")
    assert "Who knows Perth?" in author.inner_text("tbody")
    record = next(row for row in server.exported(tmp_path) if row["id"] == f"three {look}")
    assert {other["editor"] for other in [record, *record["also"]]} == {"ada", "ben", "eve", f"dan {look}"}

    # one of them becomes gold
    page.reload()
    card = page.locator(".work-card", has=page.locator("h3:has-text('eve')"))
    card.locator("text=Choose this one").click()
    page.wait_for_selector(".gold ins:has-text('Darwin')")
    record = next(row for row in server.exported(tmp_path) if row["id"] == f"three {look}")
    assert (record["editor"], record["gold"]["by"]) == ("eve", "admin")
    for each in (tab, dan, ben):
        each.close()


@every_look
def test_someone_alone_finishes_and_counts_say_what_happened(
    chromium: Any, tmp_path: Path, look: Look
) -> None:
    engine = database(tmp_path)
    set_up(engine, "edit", "", None, 1.0, None, 2)
    add_pairs(engine, [ToEdit(id="p", prompt="Q", rejected=SYDNEY)], Rejects())
    server = LocalServer(engine, ["ada"])
    tab = Tab(chromium, server, look)
    page = tab.open(server.links["ada"])
    page.keyboard.press("Alt+f")
    page.wait_for_selector("h1:has-text('That is all')")
    assert "1 of 1 by all" in page.inner_text(".progress")
    page.goto(server.links["admin"])
    follow(page, "#enter button")  # this browser was ada's
    until(page, "document.querySelector('.figures')")
    figures = " ".join(page.inner_text(".figures").split())
    assert "items done 1 of 1" in figures
    assert "done by two or more 0" in figures, "it was meant for two, and one did it"
    tab.close()
    server.stop()
