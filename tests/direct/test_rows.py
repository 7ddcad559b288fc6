"""Edits as rows: crops and ends, openings, and what lies between the two sides of an edit."""

import pytest

from redline.data.records import Edit, Feedback
from redline.direct.keywords import phrases, without_keywords
from redline.direct.rows import (
    EditRows,
    Row,
    common_beginning,
    edit_rows,
    feedback_rows,
    opening_size,
    pair_of,
    undone,
    with_opening,
)
from redline.errors import UserError
from redline.label.stage import label_edits
from tiny_tokenizers import byte_bpe


@pytest.fixture(scope="module")
def tokenizer():
    return byte_bpe()


def labelled(tokenizer, limit=40, **fields):
    edit = Edit(**{"id": "1", "prompt": "the film was", "rejected": " bad", "edited": " good"} | fields)
    return list(label_edits([edit], tokenizer, max_response_tokens=limit))


def test_whole_responses_end_with_end_of_text_and_cropped_ones_do_not(tokenizer):
    [edit] = edit_rows(labelled(tokenizer, 4, rejected=" bad and long, far too long"), tokenizer, 4)
    assert tokenizer.decode(edit.edited) == " good" + tokenizer.eos_token
    assert edit.edited_labels == [1, 0]
    assert len(edit.rejected) == len(edit.rejected_labels) == 4
    assert tokenizer.eos_token_id not in edit.rejected
    liked, disliked = pair_of(edit, 7)
    assert (liked.side, disliked.side, liked.pair, disliked.pair) == (1, -1, 7, 7)
    assert liked.response == edit.edited
    assert liked.ids[: liked.before] == edit.prompt_ids
    assert liked.places == list(range(liked.before, len(liked.ids)))


def test_a_conversation_ends_with_the_end_of_its_turn(tokenizer):
    talk = [{"role": "user", "content": "film?"}]
    [edit] = edit_rows(labelled(tokenizer, prompt=talk, rejected="bad", edited="good"), tokenizer, 40)
    [thumb] = feedback_rows([Feedback(id="1", prompt=talk, response="good", liked=False)], tokenizer, 40)
    assert thumb.response == edit.edited
    assert thumb.side == -1


def test_nothing_predicts_the_first_token():
    assert Row([5, 6, 7], 0).places == [1, 2]
    assert Row([5, 6, 7], 0, token_weights=[1.0, 0.0, -0.5]).places == [2]
    assert Row([5, 6, 7], 1, token_weights=[1.0, 0.0]).places == [1]


def test_chosen_responses_take_the_place_of_edited_ones(tokenizer):
    [edit] = edit_rows(labelled(tokenizer, chosen=" fine"), tokenizer, 40, "chosen")
    assert tokenizer.decode(edit.edited, skip_special_tokens=True) == " fine"
    with pytest.raises(UserError, match=r"edit 1: has no `chosen` response, which direct.pairs=chosen needs"):
        edit_rows(labelled(tokenizer), tokenizer, 40, "chosen")


@pytest.mark.parametrize(
    ("text", "words", "wanted"),
    [
        ("I liked this film very much", 3, "I liked this"),
        ("I liked", 8, None),
        ("  white   space counts not", 2, "  white   space"),
        ("word", 1, None),
    ],
)
def test_openings_are_whole_words_and_leave_something(tokenizer, text, words, wanted):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    size = opening_size(tokenizer, ids, words)
    if wanted is None:
        assert size == len(ids) - 1
    else:
        assert tokenizer.decode(ids[:size]) == wanted
    row = with_opening(Row(ids, 0, 1), size, tokenizer)
    if size == 0:
        assert row is None
    else:
        assert row.ids == ids
        assert row.prompt == tokenizer.decode(ids[:size])


def test_a_common_beginning():
    assert common_beginning([1, 2, 3], [1, 2, 4]) == 2
    assert common_beginning([1], [1, 2]) == 1
    assert common_beginning([], [1]) == 0


EDIT = EditRows("a", "", [], [1, 20, 3, 40, 5, 60, 7], [0] * 7, [1, 2, 3, 4, 5, 6, 6, 7], [0] * 8)


def test_changes_are_undone_whole_and_in_a_seeded_order():
    made = undone(EDIT, 3, seed=0)
    assert [degree for degree, _ in made] == [1, 2]
    for degree, ids in made:
        back = [one for one in ([2], [4], [6, 6]) if set(one) <= set(ids)]
        assert len(back) == degree
    assert set(made[1][1]) >= {token for token in made[0][1] if token in (2, 4, 6)}
    assert made == undone(EDIT, 3, seed=0)
    assert len({str(undone(EDIT, 3, seed)) for seed in range(9)}) > 1


def test_few_changes_give_few_degrees():
    single = EditRows("a", "", [], [1, 20, 3], [0] * 3, [1, 2, 3], [0] * 3)
    assert undone(single, 3, seed=0) == []
    two = EditRows("a", "", [], [10, 2, 30], [0] * 3, [1, 2, 3], [0] * 3)
    assert len(undone(two, 5, seed=0)) == 1


def test_keywords_by_hand():
    """Degree over frequency: "bad" 2/1, "acting" (2 + 1)/2, "plot" 1."""
    text = "The bad acting and the plot. Acting is it"
    scored = phrases(text)
    assert [(score, text[start:end]) for score, start, end in scored] == [
        (3.5, "bad acting"),
        (1.5, "Acting"),
        (1.0, "plot"),
    ]
    made = without_keywords(text, 3)
    assert made == [
        (1, "The and the plot. Acting is it"),
        (2, "The and the plot. is it"),
        (3, "The and the. is it"),
    ]
    assert without_keywords("it is", 3) == []
