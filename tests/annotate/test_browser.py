"""A person at a real browser, in the plain field."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from annotation_server import Server, export, wait_until, write_records
from browsing import Tab, fits, follow, nothing_is_sent, select_text, until

from redline.data.alignment import align, edit_ratio
from redline.data.units import units

pytest.importorskip("playwright")
SYDNEY = (
    "The capital of Australia is Sydney. About 470,000 people live there, and the city is the seat of the "
    "federal parliament. It was chosen in 1908 as a compromise between Sydney and Melbourne, and it was "
    "planned by the architect Walter Burley Griffin."
)
CODE = (
    "```python\ndef median(xs):\n\txs.sort()\n\treturn xs[len(xs) / 2]\n```\n\nIt sorts the list and "
    "takes the middle."
)
GUIDELINE = "Change **as little as possible**.\n\n- Correct what is false.\n- Leave style alone."
RECORDS = [
    {
        "id": "capitals-17",
        "prompt": "What is the capital of Australia, and roughly how many people live there?",
        "chosen": "Canberra, where about 470,000 people live. It was chosen in 1908 as a compromise between "
        "Sydney and Melbourne.",
        "rejected": SYDNEY,
    },
    {
        "id": "code-4",
        "prompt": [
            {"role": "system", "content": "You are a careful programmer."},
            {
                "role": "user",
                "content": "Write a function that returns the **median** of a list, without "
                "imports:\n\n```python\n"
                "def median(xs):\n    ...\n```",
            },
        ],
        "rejected": [{"role": "assistant", "content": CODE}],
        "chosen": [{"role": "assistant", "content": "Use statistics.median."}],
    },
    *(
        {
            "id": f"rest-{number}",
            "prompt": f"Say {number}",
            "rejected": f"one two three four five {number}",
            "chosen": "six",
        }
        for number in range(4)
    ),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pairs = write_records(tmp_path / "pairs.jsonl", RECORDS)
    (tmp_path / "guideline.md").write_text(GUIDELINE)
    started = Server(
        tmp_path,
        str(pairs),
        "--annotators",
        "ada,ben",
        "--guideline",
        str(tmp_path / "guideline.md"),
        "--max-ratio",
        "0.3",
        "--agreement",
        "0",
    )
    yield started
    started.stop()


def _reload(page: Any) -> None:
    page.reload()
    until(page, "true")


def _meter(page: Any) -> str:
    return str(page.inner_text("#meter-text"))


def _marked(page: Any) -> list[tuple[str, str]]:
    return [
        tuple(pair)
        for pair in page.eval_on_selector_all(
            "#redline div > del, #redline div > ins",
            "found => found.map(one => [one.localName, one.textContent])",
        )
    ]


def test_from_the_link_to_the_last_item(chromium: Any, server: Server) -> None:
    tab = Tab(chromium, server, field="plain")
    page = tab.open(server.links["ada"])
    assert page.url == f"{server.base}/", "the token is not in the address"
    assert page.input_value("#editor") == SYDNEY
    assert _marked(page) == []

    # edit, and see the redline change
    select_text(page, "Sydney.")
    page.keyboard.type("Canberra.")
    wait_until(
        lambda: _marked(page) == [("del", "Sydney"), ("ins", "Canberra")]
    )  # drawn a moment after the last letter
    assert "1 of 48 words changed · 2% (limit 30%)" in _meter(page)

    # undo and redo, word by word
    page.keyboard.type(" So ends")
    for expected in (" So", "", None):
        page.keyboard.press("Control+z")
        text = SYDNEY if expected is None else SYDNEY.replace("Sydney.", f"Canberra.{expected}")
        wait_until(lambda: page.input_value("#editor") == text)  # noqa: B023
    page.keyboard.press("Control+Shift+z")
    page.wait_for_selector("#redline ins")
    assert "Canberra." in page.input_value("#editor")

    # over the limit: warned before, refused after
    select_text(page, "470,000 people live there, and the city is the seat of")
    page.keyboard.type("1 2 3 4 5 6 7 8 9 10 11")
    page.wait_for_selector("#meter.near")
    page.keyboard.type(" 12 13 14 15")
    page.wait_for_selector("#meter.over")
    assert "Too much" in _meter(page)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#banner.error")
    assert "at most 30%" in page.inner_text("#banner")
    assert export(server) == []
    page.click("[data-act=reset]")
    until(page, "!document.querySelector('#redline del, #redline ins')")
    page.click("[data-act=undo]")
    assert "9 10 11 12" in page.input_value("#editor"), "a reset can be undone"
    page.keyboard.press("Alt+r")
    assert page.input_value("#editor") == SYDNEY
    select_text(page, "Sydney.")
    page.keyboard.type("Canberra.")

    # a note, then a reload in the middle: the draft is there
    page.keyboard.press("Alt+n")
    page.keyboard.type("checked in an atlas")
    _reload(page)
    assert page.input_value("#editor") == SYDNEY.replace("Sydney.", "Canberra.")
    assert page.input_value("#note") == "checked in an atlas"
    assert _marked(page) == [("del", "Sydney"), ("ins", "Canberra")]

    # submit by keyboard, and on to the next
    page.focus("#editor")
    page.keyboard.press("Control+Enter")
    until(page, "document.getElementById('editor')?.value.startsWith('```')")
    assert page.input_value("#editor") == CODE, "tabs and lines are kept"
    assert "1 by you" in page.inner_text(".progress")
    (record,) = export(server)
    assert (record["edited"], record["editor"]) == (SYDNEY.replace("Sydney.", "Canberra."), "ada")
    assert record["note"] == "checked in an atlas"
    assert record["seconds"] >= 0

    # outside of the text field no letter is a command
    page.keyboard.press("Escape")
    page.keyboard.type("fix the sentence, c g p x s n ? 1 2 3")
    nothing_is_sent(page)
    assert page.input_value("#editor") == CODE
    assert "1 by you" in page.inner_text(".progress")
    assert len(export(server)) == 1

    # the rest by keyboard alone
    page.keyboard.press("Alt+c")
    assert page.is_visible("#chosen")
    page.keyboard.press("Alt+g")
    assert "Leave style alone" in page.inner_text("#guidelines")
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+h")
    assert page.is_visible("#keys")
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+p")
    assert page.inner_text(".message:nth-of-type(2) .source").startswith(
        "Write a function that returns the **median**"
    )
    for key, done in [("Alt+x", 2), ("Alt+f", 3), ("Alt+s", 3)]:
        before = page.input_value("#editor")
        page.keyboard.press(key)
        changed = f"document.getElementById('editor')?.value !== {json.dumps(before)}"
        until(page, f"document.getElementById('editor')?.value && {changed}")
        assert f"{done} by you" in page.inner_text(".progress")
    until(page, "document.getElementById('editor')?.value.endsWith('2')")
    for last in (2, 3):
        page.keyboard.press("Alt+e")
        page.keyboard.press("Control+End")
        page.keyboard.type(" six")
        page.keyboard.press("Control+Enter")
        until(page, f"!document.getElementById('editor')?.value.includes('five {last}')")
    assert "You skipped 1" in page.inner_text("main")
    page.click("text=Look at it again")
    until(page, "document.getElementById('editor')")
    page.keyboard.press("Alt+f")
    page.wait_for_selector("text=That is all for you")
    verdicts = {record["id"]: record["verdict"] for record in export(server)}
    assert verdicts == {
        "capitals-17": "edited",
        "code-4": "unfixable",
        "rest-0": "fine",
        "rest-1": "fine",
        "rest-2": "edited",
        "rest-3": "edited",
    }
    tab.close()


def test_a_lost_connection_loses_nothing(chromium: Any, server: Server) -> None:
    tab = Tab(chromium, server, field="plain")
    page = tab.open(server.links["ada"])
    port = server.port
    server.kill()
    select_text(page, "Sydney.")
    page.keyboard.type("Canberra.")
    page.wait_for_selector("text=No connection")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#banner.warn")
    assert "kept in this browser" in page.inner_text("#banner")
    server.start(port)
    wait_until(lambda: "1 by you" in page.inner_text("body"), 20)
    assert [record["edited"] for record in export(server)] == [SYDNEY.replace("Sydney.", "Canberra.")]
    # A connection that is open when the server dies is reset or ends without an answer, a later one is
    # refused.
    tab.problems = [
        problem for problem in tab.problems if not problem.startswith("Failed to load resource: net::ERR_")
    ]
    tab.close()


def test_a_draft_goes_with_its_person(chromium: Any, server: Server) -> None:
    """What was typed on one device is there on another, and on nobody else's."""
    tab = Tab(chromium, server, field="plain")
    page = tab.open(server.links["ada"])
    select_text(page, "Sydney.")
    page.keyboard.type("Canberra.")
    page.wait_for_selector("#saved:text('Saved')")
    tab.close()
    other = Tab(chromium, server, field="plain")
    assert "Canberra." in other.open(server.links["ada"]).input_value("#editor")
    other.close()
    ben = Tab(chromium, server, field="plain")
    assert ben.open(server.links["ben"]).input_value("#editor") == CODE
    ben.close()


CANBERRA = SYDNEY.replace("Sydney.", "Canberra.")
YESTERDAY = "const now = Date.now.bind(Date); Date.now = () => now() - 86400000"


def test_two_devices_of_one_person(chromium: Any, server: Server) -> None:
    """The later keystroke does not wipe the other device's text, whatever the clocks say."""
    laptop, phone = Tab(chromium, server, field="plain"), Tab(chromium, server, field="plain")
    laptop.context.add_init_script(YESTERDAY)
    at_laptop, on_phone = laptop.open(server.links["ada"]), phone.open(server.links["ada"])
    select_text(at_laptop, "Sydney.")
    at_laptop.keyboard.type("Canberra.")
    at_laptop.wait_for_selector("#saved:text-is('Saved')")
    on_phone.focus("#editor")
    on_phone.keyboard.type("x")
    on_phone.wait_for_selector("#banner:has-text('on another device')")
    on_phone.keyboard.type("y")
    on_phone.evaluate("dispatchEvent(new Event('online'))")  # whatever waits to be saved is sent now
    assert "on another device" in on_phone.inner_text("#banner"), "it stays while one types on"
    assert "Not saved" in on_phone.inner_text("#saved")
    _reload(at_laptop)
    assert at_laptop.input_value("#editor") == CANBERRA

    # the phone goes on with the laptop's text, and does not lose its own
    _reload(on_phone)
    assert on_phone.input_value("#editor") == CANBERRA
    assert "Undo" in on_phone.inner_text("#banner")
    on_phone.click("[data-act=undo]")
    assert on_phone.input_value("#editor") == f"xy{SYDNEY}"
    on_phone.click("[data-act=redo]")
    on_phone.focus("#editor")
    on_phone.keyboard.press("Control+End")
    on_phone.keyboard.type(" Yes.")
    on_phone.wait_for_selector("#saved:text-is('Saved')")

    # the laptop, a day behind, takes that over; its own newer draft then counts
    _reload(at_laptop)
    assert at_laptop.input_value("#editor") == f"{CANBERRA} Yes."
    assert at_laptop.locator("#banner").is_hidden()
    at_laptop.keyboard.press("Control+End")
    at_laptop.keyboard.type(" No.")
    at_laptop.wait_for_selector("#saved:text-is('Saved')")
    _reload(on_phone)
    assert on_phone.input_value("#editor") == f"{CANBERRA} Yes. No."
    assert on_phone.locator("#banner").is_hidden()
    laptop.close()
    phone.close()


def test_a_draft_whose_answer_is_lost(chromium: Any, server: Server) -> None:
    """What the server kept though its answer did not arrive is no other device's."""
    tab = Tab(chromium, server, field="plain")
    page = tab.open(server.links["ada"])

    def lose(route: Any) -> None:
        route.fetch()
        route.abort()

    page.route("**/api/draft", lose)
    select_text(page, "Sydney.")
    page.keyboard.type("Canberra.")
    page.wait_for_selector("#saved:has-text('No connection')")
    page.keyboard.type(" Yes.")
    _reload(page)
    page.wait_for_selector("#saved:has-text('No connection')")
    page.unroute("**/api/draft")
    page.keyboard.type("So: ")
    page.wait_for_selector("#saved:text-is('Saved')")
    assert page.locator("#banner").is_hidden()
    tab.problems = [
        problem for problem in tab.problems if not problem.startswith("Failed to load resource: net::ERR_")
    ]
    tab.close()
    other = Tab(chromium, server, field="plain")
    assert other.open(server.links["ada"]).input_value("#editor") == "So: " + CANBERRA.replace(
        "Canberra.", "Canberra. Yes."
    )
    other.close()


def test_verdicts_that_are_not_meant(chromium: Any, server: Server) -> None:
    tab = Tab(chromium, server, field="plain")
    page = tab.open(server.links["ada"])
    page.focus("#editor")
    for letter, code in (("ś", "KeyS"), ("ƒ", "KeyF"), ("Dead", "KeyN")):  # Option and a letter on a Mac
        prevented = page.evaluate(
            """([key, code]) => !document.getElementById('editor').dispatchEvent(
            new KeyboardEvent('keydown', {key, code, altKey: true, bubbles: true, cancelable: true}))""",
            [letter, code],
        )
        assert not prevented
    for more in ("x", "y"):  # what is typed after the question makes it a new one
        page.keyboard.type(more)
        page.keyboard.press("Alt+f")
        page.wait_for_selector("#banner:has-text('Your changes would be dropped')")
    nothing_is_sent(page)
    assert page.input_value("#editor") == f"xy{SYDNEY}"
    assert export(server) == []
    page.keyboard.press("Alt+f")
    until(page, "document.getElementById('editor')?.value.startsWith('```')")
    assert export(server)[0]["verdict"] == "fine"
    tab.close()


def test_more_than_100000_halves_of_emoji(chromium: Any, tmp_path: Path) -> None:
    """The limit counts characters, in the browser as on import; what hides among them is drawn by its
    number."""
    text = "bad \U000e0041\U000e007f\u3164\u115f words and some more " + "\U0001f600" * 60_000
    pairs = write_records(tmp_path / "pairs.jsonl", [{"id": "n", "prompt": "p", "rejected": text}])
    server = Server(tmp_path, str(pairs), "--annotators", "ada")
    try:
        tab = Tab(chromium, server, field="plain")
        page = tab.open(server.links["ada"])
        assert page.locator("#redline .hidden-mark").all_inner_texts() == [
            "U+E0041",
            "U+E007F",
            "U+3164",
            "U+115F",
        ]
        assert page.inner_text("#redline").startswith("bad U+E0041U+E007FU+3164U+115F words")
        select_text(page, "bad")
        page.keyboard.type("good")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=That is all")
        assert export(server)[0]["edited"] == text.replace("bad", "good")
        tab.close()
    finally:
        server.stop()


def test_a_link_from_another_site(chromium: Any, server: Server) -> None:
    """Cookies are strict, and still the link works from a mail or a chat."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"data:text/html,<a href='{server.links['ada']}'>work</a>")
    follow(page, "a")
    page.wait_for_selector("#editor")
    page.goto(
        f"data:text/html,<form method=post action='{server.base}/api/skipped'><button>go</button></form>"
    )
    follow(page, "button")
    assert "another site" in page.inner_text("body")
    context.close()


def test_hostile_text_in_the_browser(chromium: Any, tmp_path: Path) -> None:
    nasty = (
        "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\"> "
        "[go](javascript:x) a \u202eright to left\u202c \x07 bad word and some more words so that one may "
        "be changed &lt;b&gt;"
    )
    record = {"id": "n", "prompt": nasty, "rejected": nasty, "chosen": f"better {nasty}"}
    pairs = write_records(tmp_path / "pairs.jsonl", [record])
    server = Server(tmp_path, str(pairs), "--annotators", "ada")
    try:
        tab = Tab(chromium, server, field="plain")
        page = tab.open(server.links["ada"])
        assert page.input_value("#editor") == nasty
        select_text(page, "bad")
        page.keyboard.type("<b>good</b>")
        page.wait_for_selector("#redline ins")
        assert "U+202E" in page.inner_text("#redline"), (
            "what turns text round is shown, and does not turn the redline round"
        )
        assert page.locator("main img, main b, main [onerror], main a[href^=javascript]").count() == 0
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=That is all")
        assert "broken" not in page.title()
        assert export(server)[0]["edited"] == nasty.replace("bad", "<b>good</b>")
        admin = tab.open(server.links["admin"])
        admin.wait_for_selector(".redline ins")
        assert "<b>" in admin.inner_text(".redline")
        tab.close()
    finally:
        server.stop()


def test_redline_is_what_the_labels_see(chromium: Any, server: Server) -> None:
    """The page's JavaScript finds the same units, changed runs and ratios as redline.data.alignment."""
    draw = random.Random(7)
    vocabulary = [
        "a",
        "b",
        "c",
        "good",
        "it's",
        "l’été",
        "naïve",
        "x_1",
        ".",
        ",",
        "!",
        "  ",
        "\n",
        "\u00a0",
        "\x1c",
        "\ufeff",
        "½",
        "e\u0301",
        "日本",
        "ไทย",
        "カナ",
        "\U0001f600",
        "-",
        " ",
    ]
    cases = []
    for number in range(400):
        size, few = draw.randrange(0, 40), draw.randrange(2, len(vocabulary))
        some = draw.sample(vocabulary, few)
        before = [draw.choice(some) for _ in range(size)]
        after = [
            word if draw.random() < 0.8 else draw.choice(["", draw.choice(some), f"{word} {word}"])
            for word in before
        ]
        if number % 5 == 0:
            after = [draw.choice(some) for _ in range(draw.randrange(0, 40))]
        glue = draw.choice(["", " "])
        cases.append((glue.join(before), glue.join(after)))
    tab = Tab(chromium, server, field="plain")
    page = tab.open(server.links["ada"])
    found = page.evaluate(
        """async cases => {
        const diff = await import('/static/diff.mjs');
        return cases.map(([before, after]) => {
            const {a, b, cuts, ratio} = diff.compare(before, after);
            const texts = list => list.map(unit => unit.text);
            return {a: texts(a), b: texts(b), cuts, ratio};
        });
    }""",
        cases,
    )
    for (before, after), one in zip(cases, found, strict=True):
        a, b = units(before), units(after)
        assert (one["a"], one["b"]) == (a, b)
        cuts = [
            [op.start, op.end, op.edited_start, op.edited_end] for op in align(a, b).ops if op.kind != "equal"
        ]
        assert one["cuts"] == cuts, (before, after)
        assert one["ratio"] == pytest.approx(edit_ratio(a, b)), (before, after)
    took = page.evaluate(
        """async text => {
        const diff = await import('/static/diff.mjs');
        const a = diff.units(text).map(unit => unit.text);
        const b = a.map((word, at) => at % 50 ? word : 'changed');
        let cuts, quickest = Infinity;
        for (let run = 0; run < 5; run += 1) {
            const start = performance.now();
            cuts = diff.align(a, b);
            quickest = Math.min(quickest, performance.now() - start);
        }
        return [quickest, cuts.length, Boolean(cuts.coarse)];
    }""",
        " ".join(f"w{draw.randrange(500)}" for _ in range(4000)),
    )
    assert took[0] < 1000
    assert took[1:] == [80, False]
    tab.close()


def test_blind_comparison(chromium: Any, tmp_path: Path) -> None:
    prompts = [f"Question {number}: name a river in France." for number in range(4)]
    files = []
    for side, river, sea in (("a", "The Loire", "Atlantic"), ("b", "The Rhône", "sea")):
        said = f"{river} is a river in France.\n\n- It is long.\n- It flows to the {sea}."
        files.append(
            write_records(
                tmp_path / f"{side}.jsonl",
                [
                    {"id": f"q{number}", "prompt": prompt, "response": said}
                    for number, prompt in enumerate(prompts)
                ],
            )
        )
    server = Server(tmp_path, "--blind", str(files[0]), str(files[1]), "--annotators", "ada")
    try:
        tab = Tab(chromium, server)
        page = tab.open(server.links["ada"])
        assert "a.jsonl" not in page.content()
        preferred = []
        for key, side in [("Alt+j", 0), ("Alt+l", 1), ("Alt+k", None)]:
            page.wait_for_selector(".sides .panel")
            tab.settle()
            texts = page.locator(".sides .panel").all_inner_texts()
            preferred.append(0.5 if side is None else float("Loire" in texts[side]))
            number = page.inner_text(".prompt .message")
            for bare in ("ArrowLeft", "ArrowDown", "3", "2", "1", "s", "?"):  # none is a command
                page.keyboard.press(bare)
            page.keyboard.press(key)
            wait_until(lambda: page.inner_text(".prompt .message") != number)  # noqa: B023
        page.set_viewport_size({"width": 360, "height": 740})
        fits(page)
        page.evaluate(
            "for (const each of document.querySelectorAll('button')) each.style.letterSpacing = '.1em'"
        )
        fits(page)  # with a font as wide as another system's may be
        tab.settle()
        page.click("[data-act=tie]")
        page.wait_for_selector("text=That is all")
        preferred.append(0.5)
        records = export(server)
        assert [record["preference"] for record in records] == preferred
        assert all("Loire" in record["a"] and "Rhône" in record["b"] for record in records)
        tab.close()
    finally:
        server.stop()
