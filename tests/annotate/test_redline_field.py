"""Long answers at a real browser: editing in the redline, reasons, the panes, the preview, speed."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from browsing import LocalServer, Tab, database, fits, select_text, text_of, until

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
    """One item for each test, assigned to a person of its name."""
    engine = database(tmp_path_factory.mktemp("field"))
    set_up(engine, "edit", "", 0.9, 0.0, None, None, ["wrong fact", "missing"])
    pairs = {
        "edit": ("Q", SYDNEY),
        "keys": ("Q", SYDNEY),
        "long": (TALK, LONG),
        "phone": (TALK, LONG),
        "markdown": ("Q", MARKDOWN),
    }
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


def test_editing_in_the_redline(chromium: Any, server: LocalServer, tmp_path: Path) -> None:
    tab = Tab(chromium, server)
    page = tab.open(server.links["edit"])
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
    assert _marks(page) == [("del", "Sydney"), ("ins", "Canberra")]
    select_text(page, ", by the sea")
    page.keyboard.press("Delete")
    assert _marks(page)[2:] == [("del", ", by the sea")]
    select_text(page, "people")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("good ")
    assert ("ins", "good") in _marks(page)
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
    page.click("#changes-list .change")
    page.select_option("#at-cursor select", "wrong fact")
    until(page, "document.querySelector('#changes-list select')?.value === 'wrong fact'")
    page.wait_for_selector("#saved:text('Saved')")
    page.reload()
    until(page, "document.querySelector('#changes-list select')?.value === 'wrong fact'")
    assert _marks(page) == [("del", "Sydney"), ("ins", "Canberra")]
    page.focus("#editor")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("h1:has-text('That is all')")
    (record,) = server.exported(tmp_path, "all", "edit")
    assert record["edited"] == SYDNEY.replace("Sydney", "Canberra")
    assert [(one["deleted"], one["inserted"], one["reason"]) for one in record["reasons"]] == [
        ("Sydney", "Canberra", "wrong fact")
    ]
    tab.close()


def test_by_keyboard_and_in_the_plain_field(chromium: Any, server: LocalServer) -> None:
    tab = Tab(chromium, server)
    page = tab.open(server.links["keys"])
    select_text(page, "Sydney")
    page.keyboard.type("Canberra")
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


def test_two_panes_of_the_viewports_height(chromium: Any, server: LocalServer) -> None:
    tab = Tab(chromium, server, 1280, 800)
    page = tab.open(server.links["long"])
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), (
        "the page itself does not scroll"
    )
    last = page.locator(".last-turn")
    assert last.is_visible()
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
    page.click("#editor", position={"x": 100, "y": 100})
    page.keyboard.press("Control+End")
    page.keyboard.type(" At the very end.")
    assert last.is_visible()
    assert page.locator(".prompt").evaluate("box => box.getBoundingClientRect().top < 200")
    tab.close()


def test_the_prompt_stays_in_sight_on_a_phone(chromium: Any, server: LocalServer) -> None:
    tab = Tab(chromium, server, 360, 740, has_touch=True, is_mobile=True)
    page = tab.open(server.links["phone"])
    for place in (0, 300, 1e6):
        page.evaluate(f"scrollTo(0, {place})")
        page.wait_for_timeout(50)
        box = page.locator(".prompt").bounding_box()
        top, bottom = box["y"], box["y"] + box["height"]
        assert 0 <= top < bottom < 400
    fits(page)
    tab.close()


def test_preview_is_safe(chromium: Any, server: LocalServer) -> None:
    tab = Tab(chromium, server)
    page = tab.open(server.links["markdown"])
    page.keyboard.press("Alt+v")
    page.wait_for_selector("#preview h1:text('Head')")
    assert page.inner_text("#preview strong") == "bold"
    assert page.inner_text("#preview pre").strip() == "code < here"
    assert page.locator("#preview img, #preview a, #preview [onerror]").count() == 0
    select_text(page, "bold")
    page.keyboard.type("strong")
    page.wait_for_selector("#preview strong:text('strong')")
    tab.close()


MEASURE = """async () => {
    const editor = document.getElementById('editor');
    window.blocks = [];
    new PerformanceObserver(list => window.blocks.push(...list.getEntries().map(one => one.duration)))
        .observe({entryTypes: ['longtask']});
    window.times = [];
    let start = 0;
    addEventListener('keydown', () => { start = performance.now(); }, {capture: true});
    new MutationObserver(() => {
        if (!start) return;
        const began = start;
        start = 0;
        requestAnimationFrame(() => setTimeout(() => window.times.push(performance.now() - began)));
    }).observe(editor, {childList: true, subtree: true, characterData: true});
}"""


def test_speed_of_2000_words_with_200_changed(chromium: Any, tmp_path: Path) -> None:
    """From key to mark at most 50 ms median, and no block over 100 ms; the best of three tries counts, since
    other work may be on the machine."""
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
    page.evaluate("document.querySelector('.cm-scroller').scrollTop = 0")
    page.wait_for_timeout(1500)
    page.evaluate(MEASURE)
    tries = []
    for _ in range(3):
        page.evaluate("() => { window.times.length = 0; window.blocks.length = 0; }")
        select_text(page, "word8")
        for letter in "some more words here":
            page.keyboard.press(letter if letter != " " else "Space")
            page.wait_for_timeout(60)
        times, blocks = page.evaluate("[window.times, window.blocks]")
        tries.append((statistics.median(times), max(blocks, default=0)))
        if tries[-1][0] <= 50 and tries[-1][1] <= 100:
            break
        page.keyboard.press("Control+z")
    print(f"key to mark: median {tries[-1][0]:.0f} ms; longest block {tries[-1][1]:.0f} ms")
    assert min(median for median, _ in tries) <= 50
    assert min(block for _, block in tries) <= 100
    tab.close()
    server.stop()
