"""Every script at a real browser: what the page marks is what `redline label --unit word` labels; directions;
input methods."""

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
    drawn,
    every_look,
    every_look_and_field,
    fits,
    nothing_is_sent,
    select_text,
    text_of,
    until,
)

from redline.annotate import lead, people
from redline.annotate.intake import add_pairs, set_up
from redline.data.alignment import align, edit_ratio
from redline.data.check import Rejects
from redline.data.records import Edit, ToEdit
from redline.data.units import units
from redline.label.settings import Label
from redline.label.stage import label_edits
from script_texts import SCRIPTS, edits

HEBREW, ENGLISH = "שלום לכולם, זה משפט.", "An English sentence."
ALL_KINDS = "今天好 สวัสดีชาวโลก 한국어 हिन्दी 👩🏽‍💻🇩🇪 e\u0301t"  # 3 characters, then one unit of each
MIXED = f"{HEBREW}\n{ENGLISH}\nABC ואז עברית"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    engine = database(tmp_path_factory.mktemp("scripts"))
    set_up(engine, "edit", "", 1.0, 0.0, None)
    tests = {"compare": "x y", "units": ALL_KINDS, "directions": MIXED, "ime": "今天好。"}
    texts = {f"{name} {look}": text for name, text in tests.items() for look in LOOKS}
    add_pairs(engine, [ToEdit(id=key, prompt="Q", rejected=text) for key, text in texts.items()], Rejects())
    started = LocalServer(engine, list(texts))
    for key in texts:
        lead.assign(engine, lead.Filter(text=key), 1.0, people.ensure(engine, key))
    yield started
    started.stop()


COMPARE = """async cases => {
    const { compare } = await import('/static/diff.mjs');
    const points = (text, at) => [...text.slice(0, at)].length;
    return cases.map(([before, after]) => {
        const { a, b, cuts } = compare(before, after);
        const spans = (text, units, from, to) =>
            units.slice(from, to).map(({ start, end }) => [points(text, start), points(text, end)]);
        const deleted = cuts.flatMap(([i0, i1]) => spans(before, a, i0, i1));
        return [deleted, cuts.flatMap(([, , j0, j1]) => spans(after, b, j0, j1))];
    });
}"""


def test_the_page_marks_what_is_labelled(chromium: Any, server: LocalServer, tiny_model: str) -> None:
    """At least 60 edits of each script, through the tokenizer of a real model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tab = Tab(chromium, server)
    page = tab.open(server.links[f"compare {LOOKS[0]}"])
    for script in SCRIPTS:
        cases = edits(script)
        assert len(cases) >= 60, script
        marked = page.evaluate(COMPARE, cases)
        records = [Edit(id="x", prompt="", rejected=before, edited=after) for before, after in cases]
        labels = list(label_edits(records, tokenizer, Label(unit="word")))
        assert len(labels) == len(cases)
        for (before, after), (deleted, inserted), made in zip(cases, marked, labels, strict=True):
            sides = (
                (before, deleted, made.rejected_labels, -1),
                (after, inserted, made.edited_labels, 1),
            )
            for text, spans, found, sign in sides:
                offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
                    "offset_mapping"
                ]
                expected = [sign * _touches(spans, start, end) for start, end in offsets]
                assert found == expected, (script, before, after)
    tab.close()


def _touches(spans: list[list[int]], start: int, end: int) -> bool:
    return any(first < end and start < last for first, last in spans)


@every_look
def test_units_of_every_script_in_the_field(chromium: Any, server: LocalServer, look: Look) -> None:
    """The marks and the meter of the page go by the same units as everything else."""
    tab = Tab(chromium, server, look)
    page = tab.open(server.links[f"units {look}"])
    before = ALL_KINDS
    for old, new in (("天", "日"), ("สวัสดี", "ลาก่อน"), ("한국어", "영어"), ("🇩🇪", "🇫🇷")):
        select_text(page, old)
        page.keyboard.insert_text(new)
        before = before.replace(old, new)
    a, b = units(ALL_KINDS), units(before)
    changed = [op for op in align(a, b).ops if op.kind != "equal"]
    until(page, f"document.getElementById('changes-count').textContent.startsWith('{len(changed)} ')")
    struck = page.locator(".cm-struck del").all_inner_texts()
    assert struck == ["".join(a[op.start : op.end]) for op in changed]
    assert f"{round(100 * edit_ratio(a, b))}%" in page.inner_text("#meter-text")
    fits(page)
    tab.close()


@every_look
def test_each_paragraph_has_its_own_direction(chromium: Any, server: LocalServer, look: Look) -> None:
    tab = Tab(chromium, server, look)
    page = tab.open(server.links[f"directions {look}"])
    select_text(page, "שלום")
    page.keyboard.type("היי")
    lines = "all => all.map(line => getComputedStyle(line).direction)"
    assert page.eval_on_selector_all(".cm-line", lines) == ["rtl", "ltr", "ltr"]
    page.keyboard.press("Alt+l")
    assert page.eval_on_selector_all("#redline > div", lines) == ["rtl", "ltr", "ltr"]
    assert page.inner_text("#redline div:first-child del") == "שלום"
    page.keyboard.press("Alt+t")
    assert page.evaluate("getComputedStyle(document.getElementById('editor')).unicodeBidi") == "plaintext"
    tab.close()


@every_look
def test_same_letters(chromium: Any, server: LocalServer, look: Look) -> None:
    """A difference in encoding alone says so."""
    tab = Tab(chromium, server, look)
    page = tab.open(server.links[f"compare {look}"])
    page.evaluate(
        """async () => {
        const { draw } = await import('/static/redline.mjs');
        draw(document.getElementById('redline'), 'a caf\\u00e9 here', 'a cafe\\u0301 here');
        document.getElementById('redline').hidden = false;
    }"""
    )
    assert "same letters" in page.inner_text("#redline")
    page.evaluate(
        """async () => {
        const { draw } = await import('/static/redline.mjs');
        draw(document.getElementById('redline'), 'a caf\\u00e9 here', 'a bar here');
    }"""
    )
    assert "same letters" not in page.inner_text("#redline")
    tab.close()


@every_look_and_field
def test_a_composition_is_left_alone(
    chromium: Any, server: LocalServer, tmp_path: Path, look: Look, field: str
) -> None:
    """While an input method composes, nothing is compared, replaced or submitted."""
    tab = Tab(chromium, server, look, field)
    page = tab.open(server.links[f"ime {look}"])
    select_text(page, "好")
    remote = tab.context.new_cdp_session(page)
    meter = page.inner_text("#meter-text")
    for text in ("h", "he", "hen"):
        selection = {"selectionStart": len(text), "selectionEnd": len(text)}
        remote.send("Input.imeSetComposition", {"text": text} | selection)
        drawn(page)
        assert page.inner_text("#meter-text") == meter, "half a letter is not compared"
        assert page.locator(".cm-struck, #redline del").count() == 0
    page.keyboard.press("Control+Enter")
    page.evaluate("document.querySelector('[data-act=submit]').click()")
    nothing_is_sent(page)
    assert server.exported(tmp_path, "all", f"ime {look}") == []
    remote.send("Input.insertText", {"text": "很好"})
    until(page, "document.getElementById('meter-text').textContent !== " + repr(meter))
    assert text_of(page) == "今天很好。"
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("h1:has-text('That is all')")
    (record,) = server.exported(tmp_path, "all", f"ime {look}")
    assert record["edited"] == "今天很好。"
    tab.close()
