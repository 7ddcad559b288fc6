"""At a real browser: nothing that is typed, pressed or clicked by mistake makes data wrong, and nothing that
was acknowledged is lost or replaced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from browsing import (
    LOOKS,
    LocalServer,
    Look,
    Tab,
    database,
    every_look,
    every_look_and_field,
    fits,
    follow,
    nothing_is_sent,
    select_text,
    text_of,
    until,
)

from accessibility import violations
from redline.annotate.intake import add_pairs, set_up
from redline.data.check import Rejects
from redline.data.records import ToEdit

FIRST = "The capital of Australia is Sydney, a town of some size and fame."
CANBERRA = FIRST.replace("Sydney", "Canberra")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    engine = database(tmp_path)
    set_up(engine, "edit", "", None, 0.0, None)
    texts = [FIRST, *(f"Item {number} is a text of seven words." for number in range(1, 6))]
    add_pairs(
        engine, [ToEdit(id=f"p{n}", prompt=f"Q{n}", rejected=text) for n, text in enumerate(texts)], Rejects()
    )
    started = LocalServer(engine, ["ada", "ben"])
    yield started
    started.stop()


def _is_first(page: Any, number: int) -> str:
    return f"document.querySelector('.prompt .rendered')?.textContent.trim() === 'Q{number}'"


@every_look_and_field
def test_words_typed_on_do_not_reach_the_next_item(
    chromium: Any, server: LocalServer, tmp_path: Path, look: Look, field: str
) -> None:
    tab = Tab(chromium, server, look, field)
    page = tab.open(server.links["ada"])
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    tab.context.add_init_script(TYPED_ON)
    page.keyboard.press("Control+Enter")
    until(page, _is_first(page, 1))
    assert page.evaluate("window.typedOn") == [True] * 5, "each one was dropped"
    assert text_of(page) == "Item 1 is a text of seven words."
    records = server.exported(tmp_path)
    assert [(record["id"], record["edited"]) for record in records] == [("p0", CANBERRA)]

    # outside of the field: no letter, digit or arrow is a command
    page.evaluate("document.activeElement.blur()")
    page.keyboard.type("fix the sentence? x s 1 2 3")
    for key in ("ArrowDown", "ArrowLeft", "Enter", "Space", "Backspace"):
        page.keyboard.press(key)
    nothing_is_sent(page)
    assert text_of(page) == "Item 1 is a text of seven words."
    assert len(server.exported(tmp_path)) == 1
    tab.close()


# At the first moment at which the page could take it: keys, text, and a click on the spot of the last one.
TYPED_ON = """addEventListener('DOMContentLoaded', () => {
    const editor = document.getElementById('editor') ?? document.body;
    const event = { bubbles: true, cancelable: true };
    window.typedOn = [
        new KeyboardEvent('keydown', { key: 'f', code: 'KeyF', ...event }),
        new KeyboardEvent('keydown', { key: 'f', code: 'KeyF', altKey: true, ...event }),
        new KeyboardEvent('keydown', { key: 'Enter', ctrlKey: true, ...event }),
        new InputEvent('beforeinput', { inputType: 'insertText', data: 'f', ...event }),
    ].map((typed) => !editor.dispatchEvent(typed));
    const click = new MouseEvent('click', event);
    window.typedOn.push(!document.querySelector('[data-act=fine]')?.dispatchEvent(click));
})"""


@every_look
def test_undo(chromium: Any, server: LocalServer, tmp_path: Path, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links["ada"])
    page.keyboard.press("Alt+f")
    page.wait_for_selector(".toast:has-text('Submitted as already fine.')")
    fits(page)
    tab.settle()
    page.click(".toast button")
    until(page, _is_first(page, 0))
    assert server.exported(tmp_path) == []

    # from the last item's page
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    page.keyboard.press("Control+Enter")
    until(page, _is_first(page, 1))
    page.goto(f"{server.base}/mine")
    follow(page, "td a")
    until(page, _is_first(page, 0))
    page.click("[data-act=takeback]")
    until(page, f"{_is_first(page, 0)} && !document.querySelector('[data-act=takeback]')")
    assert server.exported(tmp_path) == []
    tab.close()


def test_undo_by_key_of_a_skip_and_from_the_list(chromium: Any, server: LocalServer, tmp_path: Path) -> None:
    tab = Tab(chromium, server)
    page = tab.open(server.links["ada"])
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".toast:has-text('Submitted as an edit.')")
    tab.settle()
    page.keyboard.press("Alt+u")
    until(page, _is_first(page, 0))
    assert text_of(page) == CANBERRA
    page.keyboard.press("Control+Enter")
    until(page, _is_first(page, 1))

    # of a skip; then from the list of one's last work, and from the item's own page
    page.keyboard.press("Alt+s")
    page.wait_for_selector(".toast:has-text('Skipped.')")
    tab.settle()
    page.click(".toast button")
    until(page, _is_first(page, 1))
    page.goto(f"{server.base}/mine")
    page.click("[data-undo]")
    until(page, _is_first(page, 0))
    assert server.exported(tmp_path) == []
    assert text_of(page) == CANBERRA
    tab.close()


@every_look_and_field
def test_a_stale_tab_replaces_nothing(
    chromium: Any, server: LocalServer, tmp_path: Path, look: Look, field: str
) -> None:
    tab = Tab(chromium, server, look, field)
    page = tab.open(server.links["ada"])
    stale, untouched = tab.new_page(), tab.new_page()
    for other in (stale, untouched):
        other.goto(f"{server.base}/")
        until(other, _is_first(other, 0))
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    page.keyboard.press("Control+Enter")
    until(page, _is_first(page, 1))

    untouched.keyboard.press("Alt+f")
    untouched.wait_for_selector("#banner.error:has-text('Nothing was replaced')")
    select_text(stale, "fame")
    stale.keyboard.type("note")
    stale.keyboard.press("Control+Enter")
    stale.wait_for_selector("#banner.error:has-text('another window')")
    told = stale.inner_text("#banner")
    assert "an edit" in told
    assert "Your text is kept here" in told
    assert text_of(stale) == FIRST.replace("fame", "note")
    assert [record["edited"] for record in server.exported(tmp_path)] == [CANBERRA]
    fits(stale)
    assert violations(stale) == []

    stale.click("#banner button:has-text('Submit mine instead')")
    until(stale, _is_first(stale, 1))
    (record,) = server.exported(tmp_path, "all", None, True)
    assert record["edited"] == FIRST.replace("fame", "note")
    assert [line["edited"] for line in record["history"]] == [CANBERRA, FIRST.replace("fame", "note")]
    tab.expect_lost_connections()  # the two refusals, which the browser logs
    tab.close()


@every_look
def test_submitted_without_a_connection(
    chromium: Any, server: LocalServer, tmp_path: Path, look: Look
) -> None:
    """It is sent after the tab was closed and opened again, once the server answers."""
    tab = Tab(chromium, server, look)
    page = tab.open(server.links["ada"])
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    page.wait_for_selector("#saved:text('Saved')")
    tab.lose_connection()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#banner.warn:has-text('Not sent yet')")
    fits(page)
    assert violations(page) == []
    page.close()
    assert server.exported(tmp_path) == []
    tab.find_connection()
    again = tab.new_page()
    again.route("**/api/submit", lambda route: route.abort())  # no answer at the first try
    with again.expect_event("requestfailed"):
        again.goto(f"{server.base}/")
    until(again, _is_first(again, 0))
    again.unroute("**/api/submit")
    again.evaluate("dispatchEvent(new Event('online'))")
    again.wait_for_selector(".toast:has-text('is sent now. Submitted as an edit.')")
    until(again, _is_first(again, 1))
    assert [record["edited"] for record in server.exported(tmp_path)] == [CANBERRA]

    # the connection comes back to a page that waits
    tab.lose_connection()
    again.keyboard.press("Alt+f")
    again.wait_for_selector("#banner.warn:has-text('Not sent yet')")
    tab.find_connection()
    until(again, _is_first(again, 2))
    assert len(server.exported(tmp_path)) == 2
    tab.expect_lost_connections()
    tab.close()


@pytest.mark.parametrize(("late", "quick"), [(LOOKS[0], LOOKS[3]), (LOOKS[2], LOOKS[1])], ids=str)
def test_what_was_sent_too_late_is_kept_and_shown(
    chromium: Any, server: LocalServer, tmp_path: Path, late: Look, quick: Look
) -> None:
    tab, phone = Tab(chromium, server, late), Tab(chromium, server, quick)
    page = tab.open(server.links["ada"])
    select_text(page, "Sydney")
    page.keyboard.type("Perth")
    page.wait_for_selector("#saved:text('Saved')")
    on_phone = phone.open(server.links["ada"])
    tab.lose_connection()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#banner.warn:has-text('Not sent yet')")
    page.close()
    select_text(on_phone, "Perth")
    on_phone.keyboard.type("Canberra")
    assert text_of(on_phone) == CANBERRA
    on_phone.click("[data-act=submit]")
    until(on_phone, _is_first(on_phone, 1))
    tab.find_connection()
    again = tab.new_page()
    again.goto(f"{server.base}/mine")
    again.wait_for_selector(".toast:has-text('Not taken, and kept here')")
    assert again.input_value(".toast textarea") == FIRST.replace("Sydney", "Perth")
    for scheme in ("light", "dark"):
        again.emulate_media(color_scheme=scheme)
        assert violations(again) == []
    fits(again)
    again.reload()
    again.wait_for_selector(".toast textarea")
    again.click(".toast button:has-text('Throw away')")
    again.reload()
    until(again, "!document.querySelector('.toast')")
    assert [record["edited"] for record in server.exported(tmp_path)] == [CANBERRA]
    tab.expect_lost_connections()
    tab.close()
    phone.close()


@every_look
def test_anothers_link_in_the_same_browser(chromium: Any, server: LocalServer, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links["ada"])
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    page.wait_for_selector("#saved:text('Saved')")
    page.goto(server.links["ben"])
    page.wait_for_selector("#other")
    assert "In this browser you have been ada. The link that you opened is ben’s." in page.inner_text("main")
    assert page.locator(".prompt, #editor").count() == 0, "nothing of either is shown"
    follow(page, "#stay a")
    until(page, _is_first(page, 0))
    assert page.inner_text(".who") == "ada"
    page.goto(server.links["ben"])
    follow(page, "#enter button")
    until(page, _is_first(page, 1))
    assert page.inner_text(".who") == "ben"
    tab.close()
    # somebody new goes in at once, and whoever opens the own link again is not asked
    other = Tab(chromium, server, look)
    other.open(server.links["ben"])
    assert other.open(server.links["ben"]).inner_text(".who") == "ben"
    other.close()
