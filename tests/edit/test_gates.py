"""Each gate on answers that must pass and answers that must not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.edit.gates import GATES, MEANING, check, language, script

REPLY = "Paris is the capital of Germany. It lies on the Seine and has about two million people."
MENDED = REPLY.replace("Germany", "France")
CODE = "Run this:\n\n```python\nprint(sum(range(10))\n```\n\nIt prints 45."
GERMAN = (
    "Paris ist die Hauptstadt von Deutschland und es liegt an der Seine, wo sich auch der Turm und "
    "der Louvre befinden."
)
ENGLISH = (
    "Paris is the capital of Germany and it lies on the Seine, which is where the tower and the "
    "Louvre are to be found."
)

REFUSED = [
    ("empty", REPLY, ""),
    ("empty", REPLY, " \n\t"),
    ("unchanged", REPLY, REPLY),
    ("unchanged", REPLY, f"\n{REPLY}  "),
    ("after", REPLY, f"{MENDED}\n\nNote: I corrected the country."),
    ("after", REPLY, f"{MENDED}\n\n**Changes made:** Germany became France."),
    ("after", REPLY, f"{MENDED}\n\n(Note: the country was wrong)"),
    ("after", REPLY, f"{MENDED}\nUser: and Spain?"),
    ("after", REPLY, f"{MENDED}\n### Instruction: go on"),
    ("after", REPLY, f"{MENDED}<|im_end|>"),
    ("after", REPLY, f"{MENDED}</s>"),
    ("after", REPLY, f"{MENDED}\nI have changed one word."),
    ("after", REPLY, f"{MENDED}\n=== END ==="),
    ("remark", REPLY, "I'm sorry, but I can't help with that."),
    ("remark", REPLY, "I cannot assist with this request."),
    ("remark", REPLY, f"Sure! Here is the edited response:\n\n{MENDED}"),
    ("remark", REPLY, f"Here's the corrected version: {MENDED}"),
    ("remark", REPLY, f"**Edited response:** {MENDED}"),
    ("remark", REPLY, "As an AI language model, I do not edit."),
    ("remark", REPLY, f"I've changed one word. {MENDED}"),
    ("format", REPLY, "Париж является столицей Франции. Он лежит на Сене."),
    ("format", REPLY, "巴黎是法国的首都。"),
    ("format", ENGLISH, GERMAN),
    ("format", CODE, "Run this:\n\nprint(sum(range(10)))\n\nIt prints 45."),
    ("format", CODE, CODE.replace("\n```\n", "\n")),
    ("format", REPLY, f"```\n{MENDED}\n```"),
    ("format", '{"capital": "Berlin", "of": "France"}', '{"capital": "Paris", "of": "France"'),
    ("format", REPLY, f'"{MENDED}"'),
    ("ratio", REPLY, "France has Paris for a capital, which is a big city on a river called Seine."),
    ("ratio", REPLY, f"{MENDED} {MENDED} {MENDED}"),
    ("ratio", "东京不是日本的首都。", "我住在一个很大很大的城市里。"),
]

PASSED = [
    (REPLY, MENDED),
    (CODE, CODE.replace("range(10))", "range(10)))")),
    ('{"capital": "Berlin", "of": "France"}', '{"capital": "Paris", "of": "France"}'),
    (
        "Note: bring a coat. The weather is warm in January.",
        "Note: bring a coat. The weather is cold in January.",
    ),
    (
        "I'm sorry, but I can't help with that. Go away, please.",
        "I'm sorry, but I can't help with that. Try a vet, please.",
    ),
    (
        "Here is the corrected sentence: She go to school.",
        "Here is the corrected sentence: She goes to school.",
    ),
    ("User: hi\nAssistant: go away, I am busy", "User: hi\nAssistant: hello there, I am busy"),
    ("Sure, the answer you want is five.", "Sure, the answer you want is four."),
    ('"Yes," he said, "it is bad"', '"Yes," he said, "it is good"'),
    ("42 43 44", "42 43 45"),
    ("东京不是日本的首都。", "东京就是日本的首都。"),
    ("กรุงเทพเป็นเมืองหลวงของลาว", "กรุงเทพเป็นเมืองหลวงของไทย"),
]


@pytest.mark.parametrize(("gate", "rejected", "edited"), REFUSED)
def test_refused(gate: str, rejected: str, edited: str) -> None:
    refusal = check(rejected, edited)
    assert refusal is not None
    assert refusal.gate == gate, refusal.why
    assert refusal.why
    assert "\n" not in refusal.why


@pytest.mark.parametrize(("rejected", "edited"), PASSED)
def test_passed(rejected: str, edited: str) -> None:
    assert check(rejected, edited) is None


@pytest.mark.parametrize(("gate", "rejected", "edited"), [REFUSED[place] for place in (0, 2, 4, 13, 20, 28)])
def test_a_gate_left_out_is_not_asked(gate: str, rejected: str, edited: str) -> None:
    refusal = check(rejected, edited, skip=[gate])
    assert refusal is None or refusal.gate != gate
    assert check(rejected, edited, skip=GATES) is None


def test_text_after_the_end_line() -> None:
    refusal = check(REPLY, MENDED, after=" and so on")
    assert refusal is not None
    assert refusal.gate == "after"
    assert check(REPLY, MENDED, after="\n ") is None


@pytest.mark.parametrize(("limit", "passes"), [(0.24, False), (0.25, True), (1.0, True)])
def test_ratio_limit_is_inclusive(limit: float, passes: bool) -> None:
    assert (check("one two three four", "one two three five", max_ratio=limit) is None) == passes


def test_ratio_is_over_the_longer_text() -> None:
    assert check("one two three", "one two three four five six", max_ratio=0.5) is None
    refusal = check("one two three", "one two three four five six seven", max_ratio=0.5)
    assert refusal is not None
    assert "57%" in refusal.why
    assert "50%" in refusal.why


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello there", "LATIN"),
        ("Привет", "CYRILLIC"),
        ("你好吗", "CJK"),
        ("カタカナの", "CJK"),
        ("שלום", "HEBREW"),
        ("12 + 3", None),
        ("déjà vu, naïve", "LATIN"),
        ("", None),
        ("a", None),
    ],
)
def test_script(text: str, expected: str | None) -> None:
    assert script(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENGLISH, "English"),
        (GERMAN, "German"),
        ("Bonjour", None),
        ("Le chat est sur la table et les enfants sont dans le jardin avec une amie pour jouer.", "French"),
        ("El perro está en la casa y los niños son felices, pero las flores del jardín no.", "Spanish"),
    ],
)
def test_language(text: str, expected: str | None) -> None:
    assert language(text) == expected


def test_every_gate_says_what_it_means() -> None:
    assert set(MEANING) == set(GATES)


@given(st.text(), st.text())
def test_any_text_gets_a_verdict(rejected: str, edited: str) -> None:
    refusal = check(rejected, edited)
    if rejected.strip() == edited.strip():
        assert refusal is not None
        assert refusal.gate in ("empty", "unchanged")


def test_hostile_sizes_are_quick() -> None:
    for piece in ("[", "a ", "```\n", "Note:\n", "\u202e", "(", "=" * 9 + " "):
        text = piece * (1_000_000 // len(piece))
        assert check("one two three", text) is not None
