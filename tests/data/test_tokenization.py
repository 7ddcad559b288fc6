"""Prompt and response as token ids: by exact prefix, with offsets that fit, whatever the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.data.chat_template import CannotRender
from redline.data.records import Labels
from redline.data.tokenization import encode_prompt, encode_response, fingerprint, token_ids
from redline.errors import UserError
from tiny_tokenizers import CHATML, THINKING, byte_bpe

ASK = [{"role": "user", "content": "Was the film good?"}]


def test_text_is_a_plain_continuation(tokenizer):
    assert tokenizer.decode(encode_prompt(tokenizer, "the film")) == "the film"
    text, ids, offsets = encode_response(tokenizer, "the film", " was bad.")
    assert text == " was bad."
    assert tokenizer.decode(ids) == text
    assert [text[start:end].strip() for start, end in offsets] == ["was", "bad", "."]


def test_only_the_special_tokens_in_front_are_put_on_a_prompt():
    with_bos = byte_bpe(bos=True)
    assert (
        with_bos("the film")["input_ids"][-1] == with_bos.eos_token_id
    )  # what must not end up before a response
    plain = with_bos("the film", add_special_tokens=False)["input_ids"]
    assert encode_prompt(with_bos, "the film") == [with_bos.bos_token_id, *plain]
    assert encode_prompt(with_bos, "") == [with_bos.bos_token_id]
    assert (
        encode_response(with_bos, "the film", " was").ids
        == with_bos(" was", add_special_tokens=False)["input_ids"]
    )
    assert encode_prompt(byte_bpe(), "") == []


def test_messages_go_through_the_chat_template(tokenizer):
    assert tokenizer.decode(encode_prompt(tokenizer, ASK)) == (
        "<|im_start|>user\nWas the film good?<|im_end|>\n<|im_start|>assistant\n"
    )
    for response in ("It was bad.\n", [{"role": "assistant", "content": "It was bad.\n"}]):
        text, ids, offsets = encode_response(tokenizer, ASK, response)
        assert text == "It was bad.\n"
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(offsets)
        assert offsets[-1][1] <= len(text)
    assert encode_response(tokenizer, ASK, "").ids == []


def test_a_response_that_repeats_the_prompt_is_found_by_position(tokenizer):
    said = "<|im_start|>assistant\nWas the film good?"
    assert encode_response(tokenizer, ASK, said).text == said


def test_a_response_of_several_turns_keeps_the_turns_between(tokenizer):
    turns = [
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
    ]
    text = encode_response(tokenizer, ASK, turns).text
    assert text == "Yes.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo."


def test_what_a_template_writes_behind_the_answer_is_not_the_answer():
    bare = byte_bpe(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert encode_response(bare, ASK, "It was bad.").text == "It was bad."


def test_what_cannot_be_rendered_says_why():
    with pytest.raises(UserError, match="prompts are messages, but this tokenizer has no chat template"):
        encode_prompt(byte_bpe(None), ASK)
    with pytest.raises(CannotRender, match="renders the prompt differently once the response follows"):
        encode_response(byte_bpe(THINKING), ASK, "x")
    with pytest.raises(CannotRender, match=r"refuses the conversation.*roles must alternate"):
        encode_prompt(byte_bpe("{{ raise_exception('roles must alternate') }}" + CHATML), ASK)
    with pytest.raises(CannotRender, match="prompt is text but the response is messages"):
        encode_response(byte_bpe(), "x", ASK)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.sampled_from(["👍🏽 한국어 naïve", "a\u200db", "  two  spaces\n\n"]))
def test_offsets_cover_any_text(tokenizer, response):
    for prompt in ("x", ASK):
        text, ids, offsets = encode_response(tokenizer, prompt, response)
        assert len(ids) == len(offsets)
        assert all(0 <= start <= end <= len(text) for start, end in offsets)
        covered = {k for start, end in offsets for k in range(start, end)}
        assert all(text[k].isspace() for k in set(range(len(text))) - covered)
        if prompt == "x":
            assert text == response


def test_labels_are_read_back_only_with_their_own_tokenizer(tokenizer):
    ids = tokenizer("the film was 👍", add_special_tokens=False)["input_ids"]
    record = Labels(
        id="7",
        rejected_tokens=tokenizer.convert_ids_to_tokens(ids),
        rejected_labels=[0] * len(ids),
        edited_tokens=[],
        edited_labels=[],
        tokenizer=fingerprint(tokenizer),
    )
    assert token_ids(record, tokenizer) == (ids, [])
    elsewhere = byte_bpe()
    elsewhere.name_or_path = "somewhere/else"
    assert fingerprint(elsewhere).startswith("else@")
    assert token_ids(record, elsewhere) == (ids, [])  # the vocabulary counts, not its name
    elsewhere.add_tokens(["film-star"])
    other = byte_bpe()
    other.add_tokens(["film-star"])
    with pytest.raises(
        UserError,
        match=f"record 7 were made with the tokenizer {fingerprint(tokenizer)}, this one is "
        f"{fingerprint(other)}",
    ):
        token_ids(record, other)
    with pytest.raises(UserError, match="whitespace"):
        token_ids(record.model_copy(update={"tokenizer": "whitespace"}), tokenizer)
