"""How prompt and response become token ids, the same way in every stage.

Text is a plain continuation: the prompt with the tokenizer's own special tokens before it, the response with
none. Messages go through the tokenizer's chat template: the response is what follows the rendered prompt in
the rendering of the whole conversation, less the end of the turn. The two sides of the boundary are tokenized
apart, so that a prompt has the same ids whatever follows it, as it has when a response is sampled.
"""

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from redline.data.records import Labels, Message, Text, as_text
from redline.embedded import loading, resolve
from redline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHITESPACE = "whitespace"


class Tokenized(NamedTuple):
    """A response: its text, its token ids, and for each token the characters ``[start, end)`` of the text it
    stands for."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]


class CannotRender(UserError):
    """A conversation that this chat template refuses, or renders so that the prompt is not its beginning."""


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: Text) -> list[int]:
    """Ids of a prompt: text with the special tokens that the tokenizer puts in front, or messages by its chat
    template."""
    if not isinstance(prompt, str):
        return list(tokenizer(render(tokenizer, prompt, True), add_special_tokens=False)["input_ids"])
    encoded = tokenizer(prompt, return_special_tokens_mask=True)
    front = encoded["special_tokens_mask"].index(0) if 0 in encoded["special_tokens_mask"] else None
    if front is None:  # no text, or text that is nothing but special tokens
        bos = tokenizer.bos_token_id
        front = int(bool(encoded["input_ids"]) and encoded["input_ids"][0] in (bos, tokenizer.cls_token_id))
    return [*encoded["input_ids"][:front], *tokenizer(prompt, add_special_tokens=False)["input_ids"]]


def encode_response(tokenizer: "PreTrainedTokenizerBase", prompt: Text, response: Text) -> Tokenized:
    """Text, token ids and offsets of a response, without end-of-text or end-of-turn tokens.

    A prompt of messages may have a response of plain text: the assistant's turn. Raises UserError without a
    chat template, and CannotRender where the rendered prompt is not the beginning of the rendered
    conversation.
    """
    text = response_text(tokenizer, prompt, response)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    if not isinstance(prompt, str):
        size = without_end(tokenizer, text, ids, offsets)
        text = text[: offsets[size][0]] if size < len(ids) else text
        ids, offsets = ids[:size], offsets[:size]
    return Tokenized(text, ids, offsets)


def response_text(tokenizer: "PreTrainedTokenizerBase", prompt: Text, response: Text) -> str:
    """The text to tokenize as the response; behind a prompt of messages, with the template's end of the
    turn."""
    if isinstance(prompt, str):
        if not isinstance(response, str):
            if prompt:
                raise CannotRender("the prompt is text but the response is messages")
            return as_text(response)
        return response
    turn: list[Message] = (
        [{"role": "assistant", "content": response}] if isinstance(response, str) else response
    )
    before, whole = render(tokenizer, prompt, True), render(tokenizer, [*prompt, *turn], False)
    if not whole.startswith(before):
        raise CannotRender("the chat template renders the prompt differently once the response follows")
    return whole[len(before) :]


def render(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], to_answer: bool) -> str:
    """Messages by the tokenizer's own chat template; ``to_answer`` ends with the opening of the assistant's
    turn."""
    import jinja2

    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: prompts are messages, but this tokenizer has no chat template. Use "
            "an instruction-tuned model's tokenizer, or give prompts as plain text."
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=to_answer))
    except (jinja2.TemplateError, KeyError, TypeError, ValueError) as error:
        raise CannotRender(
            f"the chat template refuses the conversation ({' '.join(str(error).split())})"
        ) from error


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token by which the chat template closes the assistant's turn; None without a template or
    such a token."""
    if not tokenizer.chat_template:
        return None
    try:
        text = response_text(tokenizer, [{"role": "user", "content": "a"}], "b")
    except CannotRender:
        return None
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    size = without_end(tokenizer, text, ids, encoded["offset_mapping"])
    return ids[size] if size < len(ids) else None


def without_end(tokenizer: "PreTrainedTokenizerBase", text: str, ids: list[int], offsets: Any) -> int:
    """How many tokens of a rendered turn precede its end: the special tokens, and white space around them,
    that close it."""
    special = _special_ids(tokenizer, len(tokenizer))
    size = here = len(ids)
    while here and (ids[here - 1] in special or not text[slice(*offsets[here - 1])].strip()):
        here -= 1
        if ids[here] in special:
            size = here
    return size


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """``name@hash`` of a tokenizer's vocabulary; the hash alone decides whether two are the same."""
    return _fingerprint(tokenizer, len(tokenizer))


def token_names(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The vocabulary's strings, by token id."""
    return _token_names(tokenizer, len(tokenizer))


# Kept for each tokenizer and its size, since tokens can be added to one.


@lru_cache(maxsize=4)
def _token_names(tokenizer: "PreTrainedTokenizerBase", _: int) -> list[str]:
    ids = tokenizer.get_vocab()
    names = [""] * (max(ids.values()) + 1)
    for name, place in ids.items():
        names[place] = name
    return names


@lru_cache(maxsize=4)
def _fingerprint(tokenizer: "PreTrainedTokenizerBase", _: int) -> str:
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    name = str(tokenizer.name_or_path).rstrip("/").rpartition("/")[2] or type(tokenizer).__name__
    return f"{name}@{hashlib.blake2b(vocabulary.encode(), digest_size=6).hexdigest()}"


@lru_cache(maxsize=4)
def _special_ids(tokenizer: "PreTrainedTokenizerBase", _: int) -> frozenset[int]:
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


@lru_cache(maxsize=4)
def _ids_by_token(tokenizer: "PreTrainedTokenizerBase", _: int) -> dict[str, int]:
    return dict(tokenizer.get_vocab())


def token_ids(labels: Labels, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """The ids of a label record's tokens, rejected and edited. Raises UserError when another tokenizer made
    them."""
    ours = fingerprint(tokenizer)
    if labels.tokenizer.rpartition("@")[2] != ours.rpartition("@")[2]:
        raise UserError(
            f"labels of record {labels.id} were made with the tokenizer {labels.tokenizer}, this one is "
            f"{ours}. Label the edits again with this model's tokenizer."
        )
    known = _ids_by_token(tokenizer, len(tokenizer))
    try:
        return [known[token] for token in labels.rejected_tokens], [
            known[token] for token in labels.edited_tokens
        ]
    except KeyError as error:
        raise UserError(
            f"labels of record {labels.id}: {ours} has no token {error}. Label the edits again."
        ) from error


def load_tokenizer(
    name: str, trust_remote_code: bool = False, revision: str | None = None
) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of a model: a Hugging Face name, a folder, or the embedded model."""
    from transformers import AutoTokenizer

    folder = resolve(name)
    with loading(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, revision=revision or "main"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"{name}: its tokenizer gives no character offsets (it is not a fast tokenizer). Choose a "
            "model with one."
        )
    return tokenizer
