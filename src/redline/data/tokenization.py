"""How prompt and response become token ids, the same way in every stage.

Text is a plain continuation: the prompt with the tokenizer's own special tokens before it, the response with
none. Messages go through the tokenizer's chat template (see ``chat_template``), less the end of the turn. The
two sides of the boundary are tokenized apart, so that a prompt has the same ids whatever follows it, as it
has when a response is sampled.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from redline.data.chat_template import CannotRender, Turn, answer, render
from redline.data.records import Labels, Text, as_text
from redline.embedded import adapter_folder, base_name, loading, resolve
from redline.errors import UserError
from redline.types import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHITESPACE = "whitespace"
FIRST = 8  # tokens that show whether a text begins with a space


class Tokenized(NamedTuple):
    """A response: its text, its token ids, and for each token the characters ``[start, end)`` of the text it
    stands for."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]


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
    special = list(encoded["input_ids"][:front])
    text = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    rendered = bool(special) and text[: len(special)] == special  # the text brings them itself
    return text if rendered else [*special, *text]


def decode_response(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], prompt: Text) -> str:
    """The text of a sampled response, without special tokens; behind a prompt of text, with the space that
    it begins with."""
    text = str(tokenizer.decode(list(ids), skip_special_tokens=True))
    return leading_space(tokenizer, ids) + text if isinstance(prompt, str) else text


def leading_space(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """The space that token ids begin with where the decoder drops it at the beginning of a text, as Llama 2's
    kind does; else nothing."""

    def decode(part: list[int]) -> str:
        return str(tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    first = list(ids[:FIRST])
    letter = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    return " " if decode([*letter, *first]) == f"{decode(letter)} {decode(first)}" and decode(first) else ""


def encode_response(tokenizer: "PreTrainedTokenizerBase", prompt: Text, response: Text) -> Tokenized:
    """Text, token ids and offsets of a response, without end-of-text or end-of-turn tokens.

    A prompt of messages may have a response of plain text: the assistant's turn. Raises UserError without a
    chat template, and CannotRender where the template refuses the conversation or changes the prompt.
    """
    turn = response_turn(tokenizer, prompt, response)
    text = turn.text[: turn.end]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    return Tokenized(text, list(encoded["input_ids"]), offsets)


def response_turn(tokenizer: "PreTrainedTokenizerBase", prompt: Text, response: Text) -> Turn:
    """The response's text and which characters of it are the responder's own: all of it, behind a prompt of
    text; behind messages, what ``chat_template.answer`` says."""
    if isinstance(prompt, list):
        return answer(tokenizer, prompt, response)
    if isinstance(response, list) and prompt:
        raise CannotRender("the prompt is text but the response is messages")
    text = as_text(response)
    return Turn(text, 0, len(text))


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token by which the chat template closes the assistant's turn; None without a template or
    such a token."""
    if not tokenizer.chat_template:
        return None
    special = _special_ids(tokenizer, len(tokenizer))
    for response in ("b", "a</think>b"):  # where the template opens a thought, a response closes it
        try:
            turn = answer(tokenizer, [{"role": "user", "content": "a"}], response)
        except CannotRender:
            continue
        ids: list[int] = tokenizer(turn.text[turn.end :], add_special_tokens=False)["input_ids"]
        return next((token for token in ids if token in special), None)
    return None


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
    name: str,
    trust_remote_code: bool = False,
    revision: str | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: JsonObject | None = None,
) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of a model: a Hugging Face name, a folder, or the embedded model.

    ``chat_template`` takes the place of its own: a file, or the template's text. ``chat_template_kwargs`` are
    given to the template with every conversation. Both go into the folders that the tokenizer is saved to.
    """
    own_folder = Path(name).expanduser()
    is_tokenizer_alone = (own_folder / "tokenizer.json").exists()
    folder = str(own_folder) if is_tokenizer_alone else resolve(name, revision)
    from transformers import AutoTokenizer  # takes seconds, which a misspelt name need not wait for

    if not is_tokenizer_alone and adapter_folder(name):  # an adapter that came without its tokenizer
        return load_tokenizer(base_name(name), trust_remote_code, None, chat_template, chat_template_kwargs)
    with loading(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, revision=revision or "main"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"{name}: its tokenizer gives no character offsets (it is not a fast tokenizer). Choose a "
            "model with one."
        )
    if chat_template is not None:
        tokenizer.chat_template = _template_text(chat_template)
    if chat_template_kwargs:
        tokenizer.init_kwargs["chat_template_kwargs"] = dict(chat_template_kwargs)
    return tokenizer


def _template_text(given: str) -> str:
    """The template itself, or what the file of this name holds."""
    if "{" in given:
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"chat_template {given}: cannot be read ({error}). Give a file, or the template's text."
        ) from error
