"""Long answers at a real browser: editing in the redline, reasons, the panes, the preview, speed."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from annotation_server import wait_until
from browsing import (
    DESKTOP,
    DESKTOP_DARK,
    LOOKS,
    PHONE,
    PHONE_DARK,
    LocalServer,
    Look,
    Tab,
    database,
    drawn,
    every_look,
    fits,
    select_text,
    text_of,
    until,
)

from accessibility import violations
from redline.annotate import lead, people
from redline.annotate.intake import add_pairs, set_up
from redline.data.check import Rejects
from redline.data.records import ToEdit

SYDNEY = "The capital of Australia is Sydney. About 470,000 people live there, by the sea."
LONG = "\n\n".join(
    f"Paragraph {number}. " + "It has some words that fill a line or two. " * 4 for number in range(40)
)
TALK = [
    *(
        {"role": role, "content": f"{role} says something, turn {turn}. " * 12}
        for turn in range(6)
        for role in ("user", "assistant")
    ),
    {"role": "user", "content": "The last question."},
]
MARKDOWN = (
    "# Head\n\n**bold** <img src=x onerror=alert(1)> [x](javascript:alert(2))\n\n```\ncode < here\n```\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """One item for each test in each look, assigned to a person of its name."""
    engine = database(tmp_path_factory.mktemp("field"))
    set_up(engine, "edit", "", 0.9, 0.0, None, None, ["wrong fact", "missing"])
    tests = {"edit": ("Q", SYDNEY), "keys": ("Q", SYDNEY), "long": (TALK, LONG), "markdown": ("Q", MARKDOWN)}
    pairs = {f"{name} {look}": values for name, values in tests.items() for look in LOOKS}
    add_pairs(
        engine,
        [ToEdit(id=key, prompt=prompt, rejected=text) for key, (prompt, text) in pairs.items()],
        Rejects(),
    )
    started = LocalServer(engine, list(pairs))
    for key in pairs:
        lead.assign(engine, lead.Filter(text=key), 1.0, people.ensure(engine, key))
    yield started
    started.stop()


def _marks(page: Any) -> list[tuple[str, str]]:
    found = page.eval_on_selector_all(
        ".cm-struck del, .cm-content ins", "all => all.map(one => [one.localName, one.textContent])"
    )
    return [(tag, text) for tag, text in found]


@every_look
def test_editing_in_the_redline(chromium: Any, server: LocalServer, tmp_path: Path, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links[f"edit {look}"])
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    wait_until(lambda: _marks(page) == [("del", "Sydney"), ("ins", "Canberra")])
    select_text(page, ", by the sea")
    page.keyboard.press("Delete")
    wait_until(lambda: _marks(page)[2:] == [("del", ", by the sea")])
    select_text(page, "people")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("good ")
    wait_until(lambda: ("ins", "good") in _marks(page))
    assert "3 changes" in page.inner_text("#changes-count")

    # one click takes one change back: on what is struck through, on the handle of an insertion
    page.click(".cm-struck:has-text('by the sea')")
    assert (
        text_of(page)
        == "The capital of Australia is Canberra. About 470,000 good people live there, by the sea."
    )
    page.click(".cm-takeback")
    assert text_of(page) == SYDNEY.replace("Sydney", "Canberra")
    page.keyboard.press("Control+z")
    assert "good people" in text_of(page), "taking back can be undone"
    page.keyboard.press("Control+Shift+z")

    # a reason, at the cursor and in the list; it survives a reload
    page.locator("#changes").evaluate("list => { list.open = true; }")
    page.click("#changes-list .change")
    page.select_option("#at-cursor select", "wrong fact")
    until(page, "document.querySelector('#changes-list select')?.value === 'wrong fact'")
    page.wait_for_selector("#saved:text('Saved')")
    page.reload()
    until(page, "document.querySelector('#changes-list select')?.value === 'wrong fact'")
    wait_until(lambda: _marks(page) == [("del", "Sydney"), ("ins", "Canberra")])
    fits(page)
    page.focus("#editor")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("h1:has-text('That is all')")
    (record,) = server.exported(tmp_path, "all", f"edit {look}")
    assert record["edited"] == SYDNEY.replace("Sydney", "Canberra")
    assert [(one["deleted"], one["inserted"], one["reason"]) for one in record["reasons"]] == [
        ("Sydney", "Canberra", "wrong fact")
    ]
    tab.close()


@every_look
def test_by_keyboard_and_in_the_plain_field(chromium: Any, server: LocalServer, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links[f"keys {look}"])
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    wait_until(lambda: _marks(page) == [("del", "Sydney"), ("ins", "Canberra")])
    page.keyboard.press("Alt+j")
    page.keyboard.press("w")  # the select's own key
    page.keyboard.press("Alt+e")
    page.keyboard.press("Alt+b")
    assert text_of(page) == SYDNEY
    select_text(page, "Sydney")
    page.keyboard.type("Perth")
    page.keyboard.press("Alt+t")
    assert page.input_value("textarea#editor") == SYDNEY.replace("Sydney", "Perth")
    assert page.inner_text("#redline del") == "Sydney", "the redline is beside it"
    select_text(page, "Perth")
    page.keyboard.type("Canberra")
    until(page, "document.querySelector('#redline ins')?.textContent === 'Canberra'")
    page.click("#changes-list .quiet")
    assert page.input_value("#editor") == SYDNEY
    page.reload()
    until(page, "document.querySelector('textarea#editor')")
    page.keyboard.press("Alt+t")
    assert page.locator(".cm-content").count() == 1
    tab.close()


@pytest.mark.parametrize("look", [DESKTOP, DESKTOP_DARK], ids=str)
def test_two_panes_of_the_viewports_height(chromium: Any, server: LocalServer, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links[f"long {look}"])
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), (
        "the page itself does not scroll"
    )
    _scroll_together(page)
    page.click("#editor", position={"x": 100, "y": 100})
    page.keyboard.press("Control+End")
    page.keyboard.type(" At the very end.")
    assert page.locator(".last-turn").is_visible()
    assert page.locator(".prompt").evaluate("box => box.getBoundingClientRect().top < 200")
    tab.close()


def _scroll_together(page: Any) -> None:
    """A conversation opens at its last turn; the editor and what is beside it scroll together."""
    assert page.evaluate(
        """() => {
        const box = document.getElementById('prompt-text').getBoundingClientRect();
        const last = document.querySelector('.last-turn').getBoundingClientRect();
        return last.top >= box.top - 1 && last.top < box.bottom;
    }"""
    ), "a conversation opens at its last turn"
    page.evaluate("document.querySelector('.cm-scroller').scrollTop = 1e6")
    until(page, "document.getElementById('beside').scrollTop > 500")
    page.evaluate("document.getElementById('beside').scrollTop = 0")
    until(page, "document.querySelector('.cm-scroller').scrollTop === 0")


@pytest.mark.parametrize("look", [PHONE, PHONE_DARK], ids=str)
def test_the_prompt_stays_in_sight_on_a_phone(chromium: Any, server: LocalServer, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links[f"long {look}"])
    _scroll_together(page)
    for place in (0, 300, 1e6):
        page.evaluate(f"scrollTo(0, {place})")
        drawn(page)
        box = page.locator(".prompt").bounding_box()
        top, bottom = box["y"], box["y"] + box["height"]
        assert 0 <= top < bottom < 400
    fits(page)
    tab.close()


@every_look
def test_preview_is_safe(chromium: Any, server: LocalServer, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links[f"markdown {look}"])
    page.keyboard.press("Alt+v")
    page.wait_for_selector("#preview h1:text('Head')")
    assert page.inner_text("#preview strong") == "bold"
    assert page.inner_text("#preview pre").strip() == "code < here"
    assert page.locator("#preview img, #preview a, #preview [onerror]").count() == 0
    select_text(page, "bold")
    page.keyboard.type("strong")
    page.wait_for_selector("#preview strong:text('strong')")
    fits(page)
    assert violations(page) == []
    tab.close()


# Notes for each key: milliseconds until the mark is on the screen.
MEASURE = """() => {
    window.blocks = [];
    window.times = [];
    new PerformanceObserver(list => window.blocks.push(...list.getEntries().map(entry => entry.duration)))
        .observe({ entryTypes: ['longtask'] });
    let start = 0;
    addEventListener('keydown', () => { start = performance.now(); }, { capture: true });
    new MutationObserver(() => {
        if (!start) return;
        const began = start;
        start = 0;
        requestAnimationFrame(() => setTimeout(() => window.times.push(performance.now() - began)));
    }).observe(document.getElementById('editor'), { childList: true, subtree: true, characterData: true });
}"""
WARM_UP = 5  # keys, before those that are measured


def test_speed_of_2000_words_with_200_changed(chromium: Any, tmp_path: Path) -> None:
    """From key to mark at most 50 ms median, and no block over 100 ms, in each look. The best of up to eight
    tries counts, since other work may be on the machine."""
    words = [f"word{number % 700}" for number in range(2000)]
    text = "\n\n".join(" ".join(words[start : start + 100]) for start in range(0, 2000, 100))
    draft = text
    for number in range(5, 2000, 10):
        draft = draft.replace(f" word{number % 700} ", f" changed{number} ", 1)
    engine = database(tmp_path)
    set_up(engine, "edit", "", 0.9, 0.0, None)
    add_pairs(engine, [ToEdit(id="long", prompt="Q", rejected=text)], Rejects())
    server = LocalServer(engine, ["ada"])
    tab = Tab(chromium, server)
    page = tab.open(server.links["ada"])
    page.focus("#editor")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(draft)
    until(page, "parseInt(document.getElementById('changes-count').textContent) >= 190")
    page.wait_for_selector("#saved:text('Saved')")
    page.evaluate(MEASURE)
    for look in LOOKS:
        page.set_viewport_size({"width": look.width, "height": look.height})
        page.emulate_media(color_scheme=look.scheme)
        page.evaluate("document.querySelector('.cm-scroller').scrollTop = 0")
        median, block = float("inf"), float("inf")
        for _ in range(8):
            tried = _type_and_measure(page)
            median, block = min(median, tried[0]), min(block, tried[1])
            if median <= 50 and block <= 100:
                break
        print(f"{look}: key to mark: median {median:.0f} ms; longest block {block:.0f} ms")
        assert median <= 50
        assert block <= 100
    tab.close()
    server.stop()


def _type_and_measure(page: Any) -> tuple[float, float]:
    """Median milliseconds from key to mark, and the longest block of the page."""
    page.evaluate("() => { window.times.length = 0; }")
    select_text(page, "word8")
    for count, letter in enumerate("some more words here, and some", 1):
        if count == WARM_UP:
            page.evaluate("() => { window.blocks.length = 0; }")
        page.keyboard.press("Space" if letter == " " else letter)
        until(page, f"window.times.length >= {count}")
    times, blocks = page.evaluate("[window.times, window.blocks]")
    page.keyboard.press("Control+z")
    drawn(page)
    return statistics.median(times[WARM_UP:]), max(blocks, default=0)
