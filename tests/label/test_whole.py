"""Labels that a person would agree with: whole characters in every script, whole numbers, by choice whole
words; short kept stretches filled; what nobody sees."""

from itertools import groupby
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.data.chat_template import Turn
from redline.data.check import Rejects
from redline.data.records import Edit
from redline.data.settings import Source
from redline.data.tokenization import encode_response, load_tokenizer
from redline.data.units import unit_spans
from redline.label.invisible import kinds, normalised
from redline.label.settings import Label
from redline.label.side import sides
from redline.label.stage import SAME_TOKENS, label_edits, label_file
from script_texts import SCRIPTS, edits

NUMBER = regex.compile(r"\p{Nd}+(?:[.,\u066b\u066c]\p{Nd}+)*")
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "templates"


@pytest.fixture(scope="module")
def embedded():
    return load_tokenizer("smollm2-135m")


def label(rejected, edited, tokenizer, settings=None, prompt="", **options):
    (record,) = label_edits(
        [Edit(id="1", prompt=prompt, rejected=rejected, edited=edited)], tokenizer, settings, **options
    )
    return record


def borders(text, labels, tokenizer):
    """Where labelled runs begin and end, as places in the text."""
    offsets = encode_response(tokenizer, "", text).offsets
    assert len(offsets) == len(labels)
    place = 0
    for value, run in groupby(labels):
        size = len(list(run))
        if value:
            yield offsets[place][0]
            yield offsets[place + size - 1][1]
        place += size


def cuts_inside(text, labels, tokenizer, spans):
    """The spans of a text in which a labelled run begins or ends, or whose tokens are labelled in part."""
    places = set(borders(text, labels, tokenizer))
    return [text[start:end] for start, end in spans if places & set(range(start + 1, end))]


def cluster_spans(text):
    return [match.span() for match in regex.finditer(r"\X", text)]


def characters_and_numbers(text):
    return [*cluster_spans(text), *(match.span() for match in NUMBER.finditer(text))]


def check_whole(rejected, edited, tokenizer, how, spans):
    record = label(rejected, edited, tokenizer, how)
    assert not cuts_inside(rejected, record.rejected_labels, tokenizer, spans(rejected))
    assert not cuts_inside(edited, record.edited_labels, tokenizer, spans(edited))
    sides = [(record.rejected_tokens, record.rejected_labels), (record.edited_tokens, record.edited_labels)]
    kept = [[token for token, value in zip(*side, strict=True) if not value] for side in sides]
    assert kept[0] == kept[1]
    return record


@pytest.mark.parametrize("script", SCRIPTS)
def test_sixty_edits_of_each_script_have_whole_labels(script, embedded, tokenizer):
    pairs = edits(script)
    assert len(set(pairs)) == 60
    for rejected, edited in pairs:
        for some in (embedded, tokenizer):  # the second one has a token for each byte of most scripts
            check_whole(rejected, edited, some, Label(), characters_and_numbers)
            check_whole(rejected, edited, some, Label(whole="word"), unit_spans)
            record = label(rejected, edited, some, Label(unit="word"))
            assert not cuts_inside(rejected, record.rejected_labels, some, cluster_spans(rejected))


@pytest.mark.parametrize("name", ["bpe_with_bos", "unigram"])
def test_other_kinds_of_tokenizers_have_whole_labels_too(name):
    if not (CASES / name).exists():
        pytest.skip(f"no {CASES / name}")
    other = load_tokenizer(str(CASES / name))
    for script in SCRIPTS:
        for rejected, edited in edits(script)[::5]:
            try:
                check_whole(rejected, edited, other, Label(), characters_and_numbers)
            except ValueError:  # a vocabulary that lacks these letters sees no change
                assert name == "unigram"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", "b ", "1", "2.5", "é", "한", "👍🏽", "क्ष", "น้ำ", "🇩🇪", " ", "."]), max_size=8
    ),
    st.lists(
        st.sampled_from(["a", "b ", "1", "2.5", "é", "한", "👍🏽", "क्ष", "น้ำ", "🇩🇪", " ", "."]), max_size=8
    ),
)
def test_random_edits_have_whole_labels(tokenizer, rejected, edited):
    rejected, edited = "".join(rejected), "".join(edited)
    if rejected.strip() != edited.strip():
        check_whole(rejected, edited, tokenizer, Label(), characters_and_numbers)
        check_whole(rejected, edited, tokenizer, Label(whole="word"), unit_spans)


def words_of(record, side, tokenizer):
    """The text of the labelled tokens."""
    tokens, labels = getattr(record, f"{side}_tokens"), getattr(record, f"{side}_labels")
    return tokenizer.convert_tokens_to_string(
        [token for token, value in zip(tokens, labels, strict=True) if value]
    )


@pytest.mark.parametrize(
    ("rejected", "edited", "minus", "plus"),
    [
        ("pi is 3.15 here", "pi is 3.14159 here", "3.15", "3.14159"),
        ("it costs 1,000 now", "it costs 1,500 now", "1,000", "1,500"),
        ("in 1999 and", "in 2009 and", "1999", "2009"),
        ("good 👍🏽 job", "good 👍🏿 job", " 👍🏽", " 👍🏿"),
    ],
)
def test_a_number_or_sign_is_wholly_bad_or_wholly_kept(embedded, rejected, edited, minus, plus):
    record = label(rejected, edited, embedded)
    assert words_of(record, "rejected", embedded).strip() == minus.strip()
    assert words_of(record, "edited", embedded).strip() == plus.strip()


def test_whole_words_by_choice(embedded):
    rejected, edited = "Das Verfahren war unbefriedigend.", "Das Verfahren war unbefriedigt."
    parts = words_of(label(rejected, edited, embedded), "rejected", embedded)
    assert parts != " unbefriedigend"
    whole = label(rejected, edited, embedded, Label(whole="word"))
    assert words_of(whole, "rejected", embedded) == " unbefriedigend"
    assert words_of(whole, "edited", embedded) == " unbefriedigt"


def test_short_kept_stretches_are_filled_by_choice(embedded):
    rejected, edited = "they saw the worst of days", "we love the best of times"
    assert words_of(label(rejected, edited, embedded), "rejected", embedded) == "they saw worst days"
    by_token = label(rejected, edited, embedded, Label(fill=2))
    assert words_of(by_token, "rejected", embedded) == rejected
    by_word = label(rejected, edited, embedded, Label(fill=1, unit="word"))
    assert words_of(by_word, "rejected", embedded) == rejected
    words = label("they saw the worst of days", "we love the best of times", "whitespace", Label(fill=1))
    assert words.rejected_labels == [-1] * 6
    long = label("x the same three words y", "z the same three words w", embedded, Label(fill=3))
    assert long.rejected_labels.count(-1) < len(long.rejected_labels)  # four words are kept


def test_edits_without_a_changed_token_are_left_out_and_counted(embedded):
    long = Edit(id="crop", prompt="", rejected="a b c d e f x", edited="a b c d e f y")
    spaces = Edit(id="space", prompt="", rejected="a  b", edited="a b")
    good = Edit(id="good", prompt="", rejected="a b", edited="a c")
    rejects = Rejects()
    kept = list(label_edits([long, spaces, good], "whitespace", max_response_tokens=4, rejects=rejects))
    assert [record.id for record in kept] == ["good"]
    assert rejects.counts == {"no changed token among the first 4": 1, SAME_TOKENS: 1}


def test_an_uncased_tokenizer_leaves_out_what_it_cannot_see():
    if not (CASES / "wordpiece").exists():
        pytest.skip(f"no {CASES / 'wordpiece'}")
    rejects = Rejects()
    edit = Edit(id="1", prompt="", rejected="The film", edited="the FILM")
    assert not list(label_edits([edit], load_tokenizer(str(CASES / "wordpiece")), rejects=rejects))
    assert rejects.counts == {SAME_TOKENS: 1}


@pytest.mark.parametrize(
    ("rejected", "edited", "kind"),
    [
        ("one\r\ntwo bad", "one\ntwo good", "line ends (CRLF)"),
        ("10\u00a0km bad", "10 km good", "no-break spaces"),
        ("a\u200bb bad", "ab good", "zero-width characters"),
        ("e\u0301te\u0301 bad", "été good", "accents composed or not (NFC)"),
    ],
)
def test_what_nobody_sees_is_warned_of_or_taken_out(embedded, rejected, edited, kind):
    assert kinds(rejected, edited) == [kind]
    assert kinds(rejected, rejected + " ") == []
    assert normalised(rejected).removesuffix(" bad") == normalised(edited).removesuffix(" good")
    rejects = Rejects()
    kept = label(rejected, edited, embedded, rejects=rejects)
    assert list(rejects.warnings.values()) == [1]
    assert kind in next(iter(rejects.warnings))
    rejects = Rejects()
    plain = label(rejected, edited, embedded, Label(invisible="normalise"), rejects=rejects)
    assert not rejects.warnings
    assert words_of(plain, "rejected", embedded) == " bad"
    assert words_of(kept, "rejected", embedded) != " bad"


def test_joiners_that_carry_meaning_stay():
    assert normalised("می\u200cخواهم 👩🏽\u200d🚀") == "می\u200cخواهم 👩🏽\u200d🚀"


def test_an_edit_of_nothing_but_invisible_characters_is_left_out_when_normalised(tmp_path, capsys):
    lines = [
        '{"id": "1", "prompt": "", "rejected": "a\\r\\nb", "edited": "a\\nb"}',
        '{"id": "2", "prompt": "", "rejected": "a\\r\\nb", "edited": "a\\nc"}',
    ]
    (tmp_path / "edits.jsonl").write_text("\n".join(lines))
    source, out = Source(path=str(tmp_path / "edits.jsonl")), tmp_path / "labels.jsonl"
    assert label_file(source, out, "smollm2-135m", Label(invisible="normalise")) == 1
    assert label_file(source, out, "smollm2-135m") == 2
    assert "warning: 2 differ in what nobody sees: line ends (CRLF)" in capsys.readouterr().err


@given(
    text=st.text(alphabet="ab 1.,\t\r\n#Z", min_size=1, max_size=40),
    whole=st.sampled_from(["character", "word"]),
)
@settings(deadline=None, max_examples=200)
def test_offsets_computed_here_put_labels_where_those_of_the_tokenizer_do(embedded, text, whole):
    """Plain texts are tokenized without offsets, which are computed from the tokens' strings."""
    (computed,), (of_tokenizer,) = (
        sides([Turn(text, 0, len(text))], embedded, whole, with_offsets) for with_offsets in (False, True)
    )
    assert computed.ids == of_tokenizer.ids
    assert [start for start, _ in computed.offsets] == [0, *(end for _, end in computed.offsets[:-1])]
    for place in range(len(computed.ids) + 1):
        assert computed.may_end_before(place) == of_tokenizer.may_end_before(place), place


def test_texts_are_tokenized_alike_whatever_is_among_them(embedded):
    """A tokenizer that was told to pad, and a batch in which only some texts are plain."""
    texts = ["plain text, 3.14", "naïve", "Total:\r\n 12", ""]
    embedded.backend_tokenizer.enable_padding(length=30)
    responses = sides([Turn(text, 0, len(text)) for text in texts], embedded, "character", False)
    assert [side.ids for side in responses] == [embedded(text)["input_ids"] for text in texts]
    assert [side.text for side in responses] == texts
