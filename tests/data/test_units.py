"""Units of text: what they are in each script, and that they never cut a character as Unicode defines it."""

import re

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from redline.data import units as module
from redline.data.units import EXTEND, SPACE, thai_model, unit_spans, units, whole_spans

PIECES = [
    *(
        "a",
        "don't",
        "é",
        "e\u0301",
        "ß",
        " ",
        "\n",
        "\r\n",
        "\u00a0",
        ".",
        ",",
        "'",
        '"',
        "3",
        "14",
        "½",
        "_",
    ),
    *("天", "葛\U000e0100", "か\u3099", "ー", "ｶﾞ", "가", "\u1100\u1161\u11a8", "ไทย", "น้ำ", "เด็ก", "ๆ", "๑"),
    *("क्ष", "त्रि", "क्\u200dष", "வணக்கம்", "ខ្ញុំ", "မြန်မာ", "ລາວ", "بِسْم", "می\u200cخواهم", "שָׁלוֹם", 'צה"ל'),
    *("👍", "👍🏽", "👩🏽\u200d🚀", "🇩🇪", "🇫", "❤️", "1️⃣", "🏴", chr(0xE0067), chr(0xE007F), "ℹ", "€", "©"),
    *("\u200d", "\u200b", "\u200f", "\ufeff", "\u0301", "\x00"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def inside_clusters(text):
    """The places that lie inside of a grapheme cluster, by the package regex."""
    clusters = (match.span() for match in regex.finditer(r"\X", text))
    return {place for start, end in clusters for place in range(start + 1, end)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's bad — no?", "It's|bad|—|no|?"),
        ("pi is 3.14159, not 3,15.", "pi|is|3.14159|,|not|3,15|."),
        ("1\u202f000 or 1\u00a0000 €", "1\u202f000|or|1\u00a0000|€"),
        ("snake_case(x)==2", "snake_case|(|x|)|=|=|2"),
        ("今天天气很好，走吧", "今|天|天|气|很|好|，|走|吧"),
        ("东京タワーへ", "东|京|タ|ワ|ー|へ"),
        ("오늘 날씨가 좋아요.", "오늘|날씨가|좋아요|."),
        ("วันนี้อากาศดีมากครับ", "วัน|นี้|อากาศ|ดี|มาก|ครับ"),
        ("हिन्दी में क्षत्रिय।", "हिन्दी|में|क्षत्रिय|।"),
        ("العَرَبِيَّة، ١٢٫٥ كتاب", "العَرَبِيَّة|،|١٢٫٥|كتاب"),
        ('צה"ל לא "כאן"', 'צה"ל|לא|"|כאן|"'),
        ("می\u200cخواهم بروم", "می\u200cخواهم|بروم"),
        ("👩🏽\u200d🚀👨\u200d👩\u200d👧 🇩🇪🇫🇷 ❤️!", "👩🏽\u200d🚀|👨\u200d👩\u200d👧|🇩🇪|🇫🇷|❤️|!"),
        ("e\u0301te\u0301 col·legi", "e\u0301te\u0301|col·legi"),
        ("\u1112\u1161\u11ab국 말", "\u1112\u1161\u11ab국|말"),
    ],
)
def test_units_of_each_script(text, expected):
    assert units(text) == expected.split("|")


@given(texts)
def test_units_never_cut_a_grapheme_cluster_and_leave_out_white_space_alone(text):
    inside = {
        place for match in regex.finditer(r"\X", text) for place in range(match.start() + 1, match.end())
    }
    spans = unit_spans(text)
    assert not inside & {place for span in spans for place in span}
    assert all(start < end for start, end in spans)
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    for end, start in zip(ends, starts, strict=True):
        assert not text[end:start].strip()


@given(texts)
def test_whole_characters_cover_the_text_and_cut_no_grapheme_cluster(text):
    spans = whole_spans(text, "character")
    assert "".join(text[start:end] for start, end in spans) == text
    inside = {
        place for match in regex.finditer(r"\X", text) for place in range(match.start() + 1, match.end())
    }
    assert not inside & {start for start, _ in spans}


def test_a_number_is_whole_and_other_characters_stand_alone():
    text = "x=3.14159, né१२"
    assert [text[start:end] for start, end in whole_spans(text, "character")] == [
        "x", "=", "3.14159", ",", " ", "n", "é", "१२",
    ]  # fmt: skip


@given(st.text(st.characters(max_codepoint=127)))
def test_the_quick_way_for_ascii_gives_the_same(text):
    assert unit_spans(text) == [match.span() for match in module._UNIT.finditer(text)]
    assert whole_spans(text, "character") == [
        match.span() for match in module._CHARACTER_OR_NUMBER.finditer(text)
    ]


def test_white_space_is_pythons():
    assert all(bool(re.fullmatch(f"[{SPACE}]", chr(code))) == chr(code).isspace() for code in range(0x11000))


def test_the_page_can_read_the_tables():
    assert '"UW1"' in thai_model().read_text(encoding="utf-8")
    assert regex.fullmatch(f"[{EXTEND}]+", "\u0301\u200d🏽")
